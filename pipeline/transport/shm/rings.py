"""The rings of a publisher, and those that a subscriber reads, with their notifications."""

from __future__ import annotations

from pipeline.transport.shm.notify import NotifyClient, NotifyServer, connect
from pipeline.transport.shm.ring import DEFAULT_SLOTS, RingReader, RingWriter

MAX_RINGS = 16


class WriterRings:
    """A publisher's rings, one per camera, each with the notifications of its readers."""

    def __init__(self, slots: int = DEFAULT_SLOTS) -> None:
        self._slots = slots
        self._rings: dict[str, tuple[RingWriter, NotifyServer]] = {}

    def get(self, camera: str, nbytes: int) -> tuple[RingWriter, NotifyServer]:
        """The camera's ring, replaced by a larger one if a slot is smaller than `nbytes`.

        Raises `RunError` if there is not enough shared memory.
        """
        found = self._rings.get(camera)
        if found is None or found[0].slot_bytes < nbytes:
            if found is not None:
                _close(found)
            ring = RingWriter(nbytes, self._slots)
            found = self._rings[camera] = ring, NotifyServer(ring.ring)
        return found

    def readers(self, camera: str) -> int:
        """How many readers of the camera's ring are notified without ZeroMQ."""
        found = self._rings.get(camera)
        return len(found[1]) if found is not None else 0

    def close(self) -> None:
        """Close all rings; their readers keep the images that they hold. Idempotent."""
        for found in self._rings.values():
            _close(found)


def _close(pair: tuple[RingWriter, NotifyServer]) -> None:
    for part in pair:
        part.close()


class ReaderRings:
    """The rings that a subscriber reads.

    `clients` are the connections to their writers by the ring's id; without `notify` there are
    none.
    """

    def __init__(self, *, notify: bool) -> None:
        self.clients: dict[str, NotifyClient] = {}
        self._notify = notify
        self._readers: dict[str, RingReader] = {}

    def get(self, ring: str) -> RingReader:
        """The reader of a ring; raises `OutOfReach` if it cannot be opened."""
        reader = self._readers.get(ring)
        if reader is None:
            # The rings of writers that have ended hold memory that no other process needs.
            kept = {key: one for key, one in self._readers.items() if not one.is_abandoned}
            while len(kept) >= MAX_RINGS:
                del kept[next(iter(kept))]
            self._readers = kept
            reader = self._readers[ring] = RingReader(ring)
            if self._notify and ring not in self.clients:
                client = connect(ring)
                if client is not None:
                    self.clients[ring] = client
        return reader

    def close(self) -> None:
        """Disconnect from the writers, and close the rings that no image uses."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        self._readers.clear()
