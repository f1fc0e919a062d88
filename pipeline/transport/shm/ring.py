"""Pictures between processes of one machine without sending them: a ring of slots in shared memory.

The writer copies a picture into a slot and sends a reference to it; readers look at it in place.
The kernel's file locks say who uses what (Linux's open file description locks, one byte a slot): a
reader holds a read lock on a slot as long as its picture lives, and the writer takes a slot only
with a write lock. So no pixel changes under a reader's eyes, nobody waits for anybody, and whoever
dies, even by kill -9, gives back what it held. A slot's generation is odd while it is being written
and grows each time, so that a reader that comes too late finds a later one than its reference
names, and gets `Gone`. One that comes too early waits: it may be told of a picture before that is
copied, to wake up meanwhile.

A ring's file (see `ring_file`) is a page with its layout and the slots' generations (u64 each),
then the slots, page-aligned.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, RunError
from pipeline.transport.shm.ring_file import (
    MAX_SLOTS,
    PAGE,
    Gone,
    OutOfReach,
    close_all,
    create,
    is_available,
    lock,
    open_ring,
    path_of,
    read_layout,
    remove_leftovers,
    write_layout,
)
from pipeline.transport.wire.messages import CHANNELS, SharedReference
from pipeline.types import Image

DEFAULT_SLOTS = 8
MAX_LEASES = 4
"""So many pictures a reader may hold in place; further ones are copied out of the ring."""
SPIN_S = 0.0002  # about as long as a copy takes; waking up again would take longer
COPY_S = 0.1  # a writer that takes longer to copy has been stopped

_GENERATIONS = 64  # where they begin in the first page


class NoFreeSlot(RunError):  # noqa: N818 - the writer sends the picture another way
    """Every slot of the ring is being looked at."""


class RingWriter:
    """A ring for pictures of up to `slot_bytes` bytes.

    Takes its memory at once, so that none can be missing later. Raises `RunError` with the sizes
    where there is not enough, `ConfigError` where the system has no such memory.
    """

    def __init__(self, slot_bytes: int, slots: int = DEFAULT_SLOTS) -> None:
        if not is_available():
            raise ConfigError("shared memory: needs Linux with /dev/shm; choose raw or jpeg")
        if not 2 <= slots <= MAX_SLOTS or slot_bytes < 1:
            raise ValueError(f"a ring of {slots} slots of {slot_bytes} bytes cannot be made")
        remove_leftovers()
        self.slot_bytes = _pages(slot_bytes)
        self.slots = slots
        size = PAGE + slots * self.slot_bytes
        self._fd, self.ring = create(size)
        try:
            self._memory = mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError:
            self._unlink()
            raise
        write_layout(self._memory, slots, self.slot_bytes)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._generations = _generations(self._bytes, slots)
        self._address = _address(self._bytes) + PAGE
        self._next = 0
        self._lent: set[int] = set()  # slots that this process looks at or writes into itself
        self._unsent: dict[int, int] = {}  # of these, the ones yet to be written: by address
        self._closed = False

    def write(
        self, image: Image, announce: Callable[[SharedReference], None] | None = None
    ) -> SharedReference:
        """Copy a picture into the slot that was written longest ago and nobody looks at.

        One that was drawn in memory that was lent is there already. `announce` is called with the
        reference as soon as that is known, which is before copying: readers wait for it. Raises
        `NoFreeSlot` where all are looked at, `ValueError` where the picture is too large.
        """
        lent = self._unsent.pop(_address(image), None) if self._unsent else None
        if lent is not None and image.flags.c_contiguous:
            reference = self._finish(lent)
            if announce is not None:
                announce(reference)
            return reference
        if image.nbytes > self.slot_bytes:
            raise ValueError(f"{image.nbytes} bytes do not fit a slot of {self.slot_bytes}")
        slot = self._take_slot()
        start = PAGE + slot * self.slot_bytes
        target = self._bytes[start : start + image.nbytes].reshape(image.shape)
        try:
            if announce is not None:
                announce(self._reference(slot, int(self._generations[slot]) + 1))
            np.copyto(target, image)
        except BaseException:
            lock(self._fd, fcntl.F_UNLCK, slot + 1)
            raise
        return self._finish(slot)

    def _finish(self, slot: int) -> SharedReference:
        """Let readers have a slot; the number comes last, so that a reader need not come twice."""
        lock(self._fd, fcntl.F_UNLCK, slot + 1)
        self._generations[slot] += 1
        return self._reference(slot, int(self._generations[slot]))

    def lend(self, height: int, width: int) -> Image:
        """A slot to draw a picture in, (height, width, 3) uint8, for `write` to need no copy.

        It is kept from other pictures until nothing in this process refers to it. Raises
        `NoFreeSlot` where all are looked at, `ValueError` where the picture would be too large.
        """
        if height * width * CHANNELS > self.slot_bytes:
            raise ValueError(f"{height} x {width} pixels do not fit a slot of {self.slot_bytes}")
        slot = self._take_slot()
        address = self._address + slot * self.slot_bytes
        self._lent.add(slot)
        self._unsent[address] = slot
        lease = _Lease(address, height, width, False, partial(self._take_back, slot, address))
        return np.asarray(lease)

    def _take_back(self, slot: int, address: int) -> None:
        if self._unsent.pop(address, None) is not None and not self._closed:
            lock(self._fd, fcntl.F_UNLCK, slot + 1)
        self._lent.discard(slot)

    def close(self) -> None:
        """Take the ring's name away; readers keep the pictures that they hold."""
        if not self._closed:
            self._closed = True
            self._unlink()

    def _take_slot(self) -> int:
        for offset in range(self.slots):
            slot = (self._next + offset) % self.slots
            if slot not in self._lent and lock(self._fd, fcntl.F_WRLCK, slot + 1):
                self._next = slot + 1
                self._generations[slot] = (int(self._generations[slot]) + 1) | 1
                return slot
        raise NoFreeSlot(f"all {self.slots} slots of the ring are being looked at")

    def _reference(self, slot: int, generation: int) -> SharedReference:
        return SharedReference(ring=self.ring, slot=slot, generation=generation)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path_of(self.ring))
        os.close(self._fd)


class RingReader:
    """Another process's ring, by the id that came with a reference.

    `read` is for one thread at a time; the pictures may be dropped in any. Raises `OutOfReach`
    where the ring is not there, not one of this user's, or too much for this process.
    """

    def __init__(self, ring: str) -> None:
        self.ring = ring
        self._files = [open_ring(ring)]
        # Locks belong to an open file, so each picture that is held in place has its own, and
        # giving one back needs no thread to know of another.
        self._finalizer = weakref.finalize(self, close_all, self._files)
        self._finalizer.atexit = False
        self._slots, self._slot_bytes = read_layout(self._files[0], ring)
        size = PAGE + self._slots * self._slot_bytes
        try:
            for _ in range(MAX_LEASES):
                self._files.append(open_ring(ring))
            self._memory = mmap.mmap(
                self._files[0], size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ
            )
        except OSError as error:
            raise OutOfReach(f"ring {ring}: {error.strerror}") from error
        self._unused = self._files[1:]
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._address = _address(self._bytes)
        self._generations = _generations(self._bytes, self._slots)

    def read(self, reference: SharedReference, height: int, width: int) -> Image:
        """The picture, (height, width, 3) uint8: in place as long as few are held, else a copy.

        Raises `Gone` where the slot has been written again or the sizes do not fit the ring.
        """
        slot, nbytes = reference.slot, height * width * CHANNELS
        if slot >= self._slots or nbytes > self._slot_bytes:
            raise Gone(f"ring {self.ring}: has no slot {slot} of {nbytes} bytes")
        start = PAGE + slot * self._slot_bytes
        if not self._unused:
            return self._copy(reference, start, height, width)
        file = self._unused.pop()
        release = partial(self._release, file, slot)
        # All that can be done before is, for whoever sent the reference may still be copying.
        image = np.asarray(_Lease(self._address + start, height, width, True, release))
        self._hold(file, reference)
        return image

    def _copy(self, reference: SharedReference, start: int, height: int, width: int) -> Image:
        self._hold(self._files[0], reference)
        try:
            pixels = self._bytes[start : start + height * width * CHANNELS]
            image: Image = pixels.reshape(height, width, CHANNELS).copy()
            return image
        finally:
            lock(self._files[0], fcntl.F_UNLCK, reference.slot + 1)

    def _hold(self, file: int, reference: SharedReference) -> None:
        """Lock a slot for reading, once its picture is complete."""
        slot, generation = reference.slot, reference.generation
        if generation % 2 == 0 and self._generations[slot] == generation - 1:
            self._await_written(slot, generation)
        if not lock(file, fcntl.F_RDLCK, slot + 1):
            raise Gone(f"ring {self.ring}: slot {slot} is being written again")
        if int(self._generations[slot]) != generation:
            lock(file, fcntl.F_UNLCK, slot + 1)
            raise Gone(f"ring {self.ring}: slot {slot} was written again before it was read")

    def _await_written(self, slot: int, generation: int) -> None:
        """Wait while the picture is being copied, which takes less time than waking up would."""
        generations = self._generations
        start_s = time.monotonic()
        while generations[slot] == generation - 1:
            waited_s = time.monotonic() - start_s
            if waited_s > COPY_S:
                raise Gone(f"ring {self.ring}: slot {slot} is not being written on")
            if waited_s > SPIN_S:  # the writer may be waiting for this very processor
                os.sched_yield()

    @property
    def is_abandoned(self) -> bool:
        """Whether its writer has ended, or has taken another ring."""
        return os.fstat(self._files[0]).st_nlink == 0

    def _release(self, file: int, slot: int) -> None:
        lock(file, fcntl.F_UNLCK, slot + 1)
        self._unused.append(file)


class _Lease:
    """What every view of a picture in place keeps alive, and with it the lock on its slot.

    An array could not do this: a view of a view has the first array's owner as its base. `release`
    is called when the last view has gone, in whatever thread that happens; it keeps the ring.
    """

    __slots__ = ("__array_interface__", "_release")

    def __init__(
        self, address: int, height: int, width: int, read_only: bool, release: Callable[[], None]
    ) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": (height, width, CHANNELS),
            "typestr": "|u1",
            "data": (address, read_only),
        }
        self._release = release

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending():  # with the process, the kernel gives all locks back
            self._release()


def _generations(memory: npt.NDArray[np.uint8], slots: int) -> npt.NDArray[np.uint64]:
    return memory[_GENERATIONS : _GENERATIONS + 8 * slots].view(np.uint64)


def _address(array: npt.NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
