"""A ring of slots in shared memory, for frames between the processes of one machine.

The writer copies a frame into a slot and sends a reference to it; readers use it in place. File
locks of the kernel (Linux's open file description locks, one byte per slot) protect the slots: a
reader holds a read lock on a slot as long as its image lives, and the writer uses a slot only with
a write lock. So no pixel changes while it is read, neither side waits for the other, and a process
that dies, even by kill -9, releases its locks. A slot's generation is odd while it is written and
grows with each write. A reader that comes too late finds a later generation than its reference
names, and gets `Gone`. A reader that comes too early waits: it may be notified of a frame before
that is copied, so that it wakes up meanwhile.

A ring's file (see `ring_file`) is a page with its layout and the slots' generations (u64 each),
then the slots, page-aligned. A slot holds the image and behind it the planes, see `wire.frames`.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
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
from pipeline.transport.wire.frames import layout
from pipeline.transport.wire.schema import CHANNELS, SharedReference
from pipeline.types import Image, Plane

DEFAULT_SLOTS = 8
MAX_LEASES = 4
"""Images that a reader may hold in place; further ones are copied out of the ring."""
SPIN_S = 0.0002  # about as long as a copy takes; waking up again would take longer
COPY_S = 0.1  # a writer that takes longer to copy has been stopped

_GENERATIONS = 64  # where they begin in the first page


class NoFreeSlot(RunError):  # noqa: N818 - the writer sends the frame another way
    """Every slot of the ring is in use."""


class RingWriter:
    """Writes frames of up to `slot_bytes` bytes into a new ring.

    Allocates all memory at once, so that it cannot run out later. Raises `RunError` with the sizes
    if there is not enough, `ConfigError` if the system has no such memory.
    """

    def __init__(self, slot_bytes: int, slots: int = DEFAULT_SLOTS) -> None:
        if not is_available():
            raise ConfigError("shared memory: needs Linux with /dev/shm; choose raw or jpeg")
        if not 2 <= slots <= MAX_SLOTS or slot_bytes < 1:
            raise ValueError(
                f"ring: expected 2 to {MAX_SLOTS} slots, got {slots} of {slot_bytes} bytes"
            )
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
        self._lent: set[int] = set()  # slots that this process draws in or still refers to
        self._unsent: dict[int, int] = {}  # of these, the ones that are not sent yet, by address
        self._closed = False

    def write(
        self,
        image: Image,
        announce: Callable[[SharedReference], None] | None = None,
        planes: Sequence[Plane] = (),
    ) -> SharedReference:
        """Copy a frame into the unused slot that was written longest ago.

        An image that was drawn in lent memory is not copied. `announce` is called with the
        reference as soon as that is known, which is before copying: readers wait for it. Raises
        `NoFreeSlot` if all are in use, `ValueError` if the frame is too large.
        """
        nbytes = frame_nbytes(image, planes)
        if nbytes > self.slot_bytes:
            raise ValueError(f"{nbytes} bytes do not fit a slot of {self.slot_bytes}")
        lent = self._unsent.pop(_address(image), None) if self._unsent else None
        if lent is not None and image.flags.c_contiguous:
            self._copy(lent, image, planes, skip_image=True)
            reference = self._publish(lent)
            if announce is not None:
                announce(reference)
            return reference
        slot = self._take_slot()
        try:
            if announce is not None:
                announce(self._reference(slot, int(self._generations[slot]) + 1))
            self._copy(slot, image, planes)
        except BaseException:
            lock(self._fd, fcntl.F_UNLCK, slot + 1)
            raise
        return self._publish(slot)

    def _copy(
        self, slot: int, image: Image, planes: Sequence[Plane], skip_image: bool = False
    ) -> None:
        memory = self._bytes[PAGE + slot * self.slot_bytes :][: self.slot_bytes]
        if not skip_image:
            np.copyto(memory[: image.nbytes].reshape(image.shape), image)
        if planes:
            starts, _ = layout([image.nbytes, *(plane.nbytes for plane in planes)])
            for start, plane in zip(starts[1:], planes, strict=True):
                target = memory[start : start + plane.nbytes].view(plane.dtype)
                np.copyto(target.reshape(plane.shape), plane)

    def _publish(self, slot: int) -> SharedReference:
        """Release a slot to readers. The number changes last, so that a reader finds no lock."""
        lock(self._fd, fcntl.F_UNLCK, slot + 1)
        self._generations[slot] += 1
        return self._reference(slot, int(self._generations[slot]))

    def lend(self, height: int, width: int) -> Image:
        """A slot to draw an image in, (height, width, 3) uint8, so that `write` copies nothing.

        It is not used for other frames as long as anything in this process refers to it. Raises
        `NoFreeSlot` if all are in use, `ValueError` if the image would be too large.
        """
        if height * width * CHANNELS > self.slot_bytes:
            raise ValueError(f"{height} x {width} pixels do not fit a slot of {self.slot_bytes}")
        slot = self._take_slot()
        address = self._address + slot * self.slot_bytes
        self._lent.add(slot)
        self._unsent[address] = slot
        shape = (height, width, CHANNELS)
        lease = _Lease(address, shape, False, partial(self._take_back, slot, address))
        return np.asarray(lease)

    def _take_back(self, slot: int, address: int) -> None:
        if self._unsent.pop(address, None) is not None and not self._closed:
            lock(self._fd, fcntl.F_UNLCK, slot + 1)
        self._lent.discard(slot)

    def close(self) -> None:
        """Remove the ring's file; readers keep the images that they hold."""
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
        raise NoFreeSlot(f"all {self.slots} slots of the ring are in use")

    def _reference(self, slot: int, generation: int) -> SharedReference:
        return SharedReference(ring=self.ring, slot=slot, generation=generation)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path_of(self.ring))
        os.close(self._fd)


class RingReader:
    """Reads another process's ring, by the id that a reference names.

    `read` is for one thread at a time; images may be released in any thread. Raises `OutOfReach` if
    the ring does not exist, belongs to another user, cannot be opened or mapped, or has slots of
    more than `max_slot_bytes`.
    """

    def __init__(self, ring: str, max_slot_bytes: int = sys.maxsize) -> None:
        self.ring = ring
        self._files = [open_ring(ring)]
        # Locks belong to an open file. Each image that is held in place has a file of its own, so
        # that threads release images independently.
        self._finalizer = weakref.finalize(self, close_all, self._files)
        self._finalizer.atexit = False
        self._slots, self._slot_bytes = read_layout(self._files[0], ring, max_slot_bytes)
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

    def read(self, reference: SharedReference, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """The slot's bytes in this shape: in place as long as few are held, else a copy.

        Raises `Gone` if the slot was written again or the sizes do not fit the ring.
        """
        slot, nbytes = reference.slot, math.prod(shape)
        if slot >= self._slots or nbytes > self._slot_bytes:
            raise Gone(f"ring {self.ring}: has no slot {slot} of {nbytes} bytes")
        start = PAGE + slot * self._slot_bytes
        if not self._unused:
            return self._copy(reference, self._bytes[start : start + nbytes].reshape(shape))
        file = self._unused.pop()
        release = partial(self._release, file, slot)
        # Everything that can be prepared comes first, because the writer may still be copying.
        image = np.asarray(_Lease(self._address + start, shape, True, release))
        self._hold(file, reference)
        return image

    def _copy(
        self, reference: SharedReference, memory: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        self._hold(self._files[0], reference)
        try:
            copied: npt.NDArray[np.uint8] = memory.copy()
            return copied
        finally:
            lock(self._files[0], fcntl.F_UNLCK, reference.slot + 1)

    def _hold(self, file: int, reference: SharedReference) -> None:
        """Lock a slot for reading once its frame is complete."""
        slot, generation = reference.slot, reference.generation
        if generation % 2 == 0 and self._generations[slot] == generation - 1:
            self._await_written(slot, generation)
        if not lock(file, fcntl.F_RDLCK, slot + 1):
            raise Gone(f"ring {self.ring}: slot {slot} is being written again")
        if int(self._generations[slot]) != generation:
            lock(file, fcntl.F_UNLCK, slot + 1)
            raise Gone(f"ring {self.ring}: slot {slot} was written again before it was read")

    def _await_written(self, slot: int, generation: int) -> None:
        """Wait while the frame is copied, which takes less time than waking up."""
        generations = self._generations
        start_s = time.monotonic()
        while generations[slot] == generation - 1:
            waited_s = time.monotonic() - start_s
            if waited_s > COPY_S:
                raise Gone(f"ring {self.ring}: the copy to slot {slot} did not finish")
            if waited_s > SPIN_S:  # the writer may need this processor
                os.sched_yield()

    @property
    def is_abandoned(self) -> bool:
        """Whether its writer has ended or uses another ring."""
        return os.fstat(self._files[0]).st_nlink == 0

    def _release(self, file: int, slot: int) -> None:
        lock(file, fcntl.F_UNLCK, slot + 1)
        self._unused.append(file)


class _Lease:
    """The owner of memory in place: every view of it keeps this alive, and so the slot's lock.

    An array cannot do this, because a view of a view has the first array's owner as its base.
    `release` keeps the ring alive. It is called when the last view is released, in any thread.
    """

    __slots__ = ("__array_interface__", "_release")

    def __init__(
        self, address: int, shape: tuple[int, ...], read_only: bool, release: Callable[[], None]
    ) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": "|u1",
            "data": (address, read_only),
        }
        self._release = release

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending():  # the kernel releases the locks of a process that ends
            self._release()


def frame_nbytes(image: Image, planes: Sequence[Plane]) -> int:
    """The size in a slot of an image and the planes behind it."""
    if not planes:
        return image.nbytes
    return layout([image.nbytes, *(plane.nbytes for plane in planes)])[1]


def _generations(memory: npt.NDArray[np.uint8], slots: int) -> npt.NDArray[np.uint64]:
    return memory[_GENERATIONS : _GENERATIONS + 8 * slots].view(np.uint64)


def _address(array: npt.NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
