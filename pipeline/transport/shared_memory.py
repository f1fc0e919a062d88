"""Pictures between processes of one machine without sending them: a ring of slots in shared memory.

The writer copies a picture into a slot and sends a reference to it; readers look at it in place.
The kernel's file locks say who uses what (Linux's open file description locks, one byte a slot): a
reader holds a read lock on a slot as long as its picture lives, and the writer takes a slot only
with a write lock. So no pixel changes under a reader's eyes, nobody waits for anybody, and whoever
dies, even by kill -9, gives back what it held. A slot's generation is odd while it is being written
and grows each time, so that a reader that comes too late finds a later one than its reference
names, and gets `Gone`. One that comes too early waits: it may be told of a picture before that is
copied, to wake up meanwhile.

A ring is a file in /dev/shm. Its writer holds a lock on it for life, so that a ring without that
lock is a dead writer's, and the next writer that starts removes it.

The file: a page with `_LAYOUT` and the slots' generations (u64 each), then the slots, page-aligned.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
import struct
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, RunError
from pipeline.transport.wire import CHANNELS, MEBI, RING_PATTERN, SharedReference
from pipeline.types import Image

FOLDER = "/dev/shm"  # noqa: S108 - the place that POSIX shared memory has on Linux
PREFIX = "vision-"
DEFAULT_SLOTS = 8
MAX_SLOTS = 256
MAX_LEASES = 4
"""So many pictures a reader may hold in place; further ones are copied out of the ring."""
SPIN_S = 0.001  # as long as a copy may well take; waking up again would take longer
COPY_S = 0.1  # a writer that takes longer to copy has been stopped

_LAYOUT = struct.Struct("=8sIIQ")  # magic, version, slots, bytes a slot
_MAGIC = b"visionrg"
_VERSION = 2
_PAGE = 4096
_GENERATIONS = 64  # where they begin in the first page
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid
_LIFE = 0  # the byte whose lock says that the writer lives; slot i has byte i + 1
_BUSY = (errno.EAGAIN, errno.EACCES)

log = logging.getLogger(__name__)


class Gone(RunError):  # noqa: N818 - the everyday fate of a slow reader, not a fault
    """The picture that a reference names is not there any more."""


class OutOfReach(Gone):
    """The memory that a reference names cannot be opened at all."""


class NoFreeSlot(RunError):  # noqa: N818 - the writer sends the picture another way
    """Every slot of the ring is being looked at."""


def is_available() -> bool:
    """Whether this system has what rings need (Linux has)."""
    return sys.platform.startswith("linux") and os.path.isdir(FOLDER)


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
        size = _PAGE + slots * self.slot_bytes
        self._fd, self.ring = _create(size)
        try:
            self._memory = mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError:
            self._unlink()
            raise
        _LAYOUT.pack_into(self._memory, 0, _MAGIC, _VERSION, slots, self.slot_bytes)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._generations = _generations(self._bytes, slots)
        self._address = _address(self._bytes) + _PAGE
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
        start = _PAGE + slot * self.slot_bytes
        target = self._bytes[start : start + image.nbytes].reshape(image.shape)
        try:
            if announce is not None:
                announce(self._reference(slot, int(self._generations[slot]) + 1))
            np.copyto(target, image)
        except BaseException:
            _lock(self._fd, fcntl.F_UNLCK, slot + 1)
            raise
        return self._finish(slot)

    def _finish(self, slot: int) -> SharedReference:
        """Let readers have a slot; the number comes last, so that a reader need not come twice."""
        _lock(self._fd, fcntl.F_UNLCK, slot + 1)
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
            _lock(self._fd, fcntl.F_UNLCK, slot + 1)
        self._lent.discard(slot)

    def close(self) -> None:
        """Take the ring's name away; readers keep the pictures that they hold."""
        if not self._closed:
            self._closed = True
            self._unlink()

    def _take_slot(self) -> int:
        for offset in range(self.slots):
            slot = (self._next + offset) % self.slots
            if slot not in self._lent and _lock(self._fd, fcntl.F_WRLCK, slot + 1):
                self._next = slot + 1
                self._generations[slot] = (int(self._generations[slot]) + 1) | 1
                return slot
        raise NoFreeSlot(f"all {self.slots} slots of the ring are being looked at")

    def _reference(self, slot: int, generation: int) -> SharedReference:
        return SharedReference(ring=self.ring, slot=slot, generation=generation)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(self.ring))
        os.close(self._fd)


class RingReader:
    """Another process's ring, by the id that came with a reference.

    `read` is for one thread at a time; the pictures may be dropped in any. Raises `OutOfReach`
    where the ring is not there, not one of this user's, or too much for this process.
    """

    def __init__(self, ring: str) -> None:
        self.ring = ring
        self._files = [_open(ring)]
        # Locks belong to an open file, so each picture that is held in place has its own, and
        # giving one back needs no thread to know of another.
        self._finalizer = weakref.finalize(self, _close_all, self._files)
        self._finalizer.atexit = False
        self._slots, self._slot_bytes = _layout(self._files[0], ring)
        size = _PAGE + self._slots * self._slot_bytes
        try:
            for _ in range(MAX_LEASES):
                self._files.append(_open(ring))
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
        start = _PAGE + slot * self._slot_bytes
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
            _lock(self._files[0], fcntl.F_UNLCK, reference.slot + 1)

    def _hold(self, file: int, reference: SharedReference) -> None:
        """Lock a slot for reading, once its picture is complete."""
        slot, generation = reference.slot, reference.generation
        if generation % 2 == 0 and self._generations[slot] == generation - 1:
            self._await_written(slot, generation)
        if not _lock(file, fcntl.F_RDLCK, slot + 1):
            raise Gone(f"ring {self.ring}: slot {slot} is being written again")
        if int(self._generations[slot]) != generation:
            _lock(file, fcntl.F_UNLCK, slot + 1)
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
        _lock(file, fcntl.F_UNLCK, slot + 1)
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


def remove_leftovers() -> int:
    """Remove the rings that dead writers of this user have left; how many there were."""
    removed = 0
    for name in os.listdir(FOLDER):
        ring = name.removeprefix(PREFIX)
        if ring == name or not re.search(RING_PATTERN, ring):
            continue
        with contextlib.suppress(OSError, Gone):
            fd = _open(ring, os.O_RDWR)
            try:
                if _lock(fd, fcntl.F_WRLCK, _LIFE):
                    os.unlink(_path(ring))
                    removed += 1
            finally:
                os.close(fd)
    if removed:
        log.info("removed %d rings that dead writers left in %s", removed, FOLDER)
    return removed


def _create(size: int) -> tuple[int, str]:
    """A new file of the size, locked as alive, and the id of its ring."""
    while True:
        ring = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            fd = os.open(_path(ring), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"shared memory: {FOLDER} cannot be used: {error.strerror}") from error
        # Another starting writer may take the new file for a leftover before the lock is on it.
        if _lock(fd, fcntl.F_WRLCK, _LIFE) and os.fstat(fd).st_nlink:
            break
        os.close(fd)
    try:
        free, total = _space()
        if total and size > free:  # looked up first, so as not to fill the memory only to fail
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.unlink(_path(ring))
        os.close(fd)
        raise _no_memory(size, error) from error
    return fd, ring


def _no_memory(size: int, error: OSError) -> RunError:
    if error.errno not in {errno.ENOSPC, errno.ENOMEM, errno.EFBIG}:
        return RunError(f"shared memory: {FOLDER} cannot be used: {error.strerror}")
    free, total = _space()
    return RunError(
        f"shared memory: {size / MEBI:.1f} MiB are needed and {FOLDER} has {free / MEBI:.1f} MiB "
        f"free of {total / MEBI:.1f}; free some, give it more, or choose raw or jpeg"
    )


def _space() -> tuple[int, int]:
    """Bytes that are free, and bytes that there are."""
    space = os.statvfs(FOLDER)
    return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize


def _path(ring: str) -> str:
    return f"{FOLDER}/{PREFIX}{ring}"


def _open(ring: str, mode: int = os.O_RDONLY) -> int:
    if not re.search(RING_PATTERN, ring):
        raise OutOfReach("shared memory: the reference holds no id of a ring")
    try:
        fd = os.open(_path(ring), mode | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OutOfReach(
            f"ring {ring}: is not in {FOLDER}; its writer has ended, or runs with another {FOLDER} "
            f"(in a container of its own), where raw or jpeg is the choice"
        ) from error
    except OSError as error:
        raise OutOfReach(f"ring {ring}: cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OutOfReach(f"ring {ring}: belongs to another user")
    return fd


def _layout(fd: int, ring: str) -> tuple[int, int]:
    """The number of slots and their size, checked against the file that is there."""
    head = os.pread(fd, _LAYOUT.size, 0)
    if len(head) == _LAYOUT.size:
        magic, version, slots, slot_bytes = _LAYOUT.unpack(head)
        fits = _PAGE + slots * slot_bytes <= os.fstat(fd).st_size
        if (magic, version) == (_MAGIC, _VERSION) and 0 < slots <= MAX_SLOTS and fits:
            return slots, slot_bytes
    raise OutOfReach(f"ring {ring}: is not laid out as this version expects")


def _lock(fd: int, kind: int, byte: int) -> bool:
    """Take or give back the lock of a byte without waiting; False where another holds it."""
    request = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _generations(memory: npt.NDArray[np.uint8], slots: int) -> npt.NDArray[np.uint64]:
    return memory[_GENERATIONS : _GENERATIONS + 8 * slots].view(np.uint64)


def _address(array: npt.NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
