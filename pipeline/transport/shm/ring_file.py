"""The files in /dev/shm that rings are: made, found, locked, and removed where their writers died.

A ring's writer holds a lock on its file for life, so that a ring without that lock is a dead
writer's, and the next writer that starts removes it. The locks are Linux's open file description
locks: they belong to an open file rather than to a process, and end with it, even by kill -9.

A file begins with a page that holds its layout; what else lies there is `shared_memory`'s affair.
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

from pipeline.errors import RunError
from pipeline.transport.wire.messages import MEBI, RING_PATTERN

FOLDER = "/dev/shm"  # noqa: S108 - the place that POSIX shared memory has on Linux
PREFIX = "vision-"
MAX_SLOTS = 256
PAGE = 4096

_LAYOUT = struct.Struct("=8sIIQ")  # magic, version, slots, bytes a slot
_MAGIC = b"visionrg"
_VERSION = 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid
_LIFE = 0  # the byte whose lock says that the writer lives; slot i has byte i + 1
_BUSY = (errno.EAGAIN, errno.EACCES)

log = logging.getLogger(__name__)


class Gone(RunError):  # noqa: N818 - the everyday fate of a slow reader, not a fault
    """The picture that a reference names is not there any more."""


class OutOfReach(Gone):
    """The memory that a reference names cannot be opened at all."""


def is_available() -> bool:
    """Whether this system has what rings need (Linux has)."""
    return sys.platform.startswith("linux") and os.path.isdir(FOLDER)


def remove_leftovers() -> int:
    """Remove the rings that dead writers of this user have left; how many there were."""
    removed = 0
    for name in os.listdir(FOLDER):
        ring = name.removeprefix(PREFIX)
        if ring == name or not re.search(RING_PATTERN, ring):
            continue
        with contextlib.suppress(OSError, Gone):
            fd = open_ring(ring, os.O_RDWR)
            try:
                if lock(fd, fcntl.F_WRLCK, _LIFE):
                    os.unlink(path_of(ring))
                    removed += 1
            finally:
                os.close(fd)
    if removed:
        log.info("rings that dead writers left in %s: removed %d", FOLDER, removed)
    return removed


def create(size: int) -> tuple[int, str]:
    """A new file of the size, locked as alive, and the id of its ring.

    The memory is taken at once. Raises `RunError` with the sizes where there is not enough.
    """
    while True:
        ring = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            fd = os.open(path_of(ring), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"shared memory: {FOLDER} cannot be used: {error.strerror}") from error
        # Another starting writer may take the new file for a leftover before the lock is on it.
        if lock(fd, fcntl.F_WRLCK, _LIFE) and os.fstat(fd).st_nlink:
            break
        os.close(fd)
    try:
        free, total = space()
        if total and size > free:  # looked up first, so as not to fill the memory only to fail
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.unlink(path_of(ring))
        os.close(fd)
        raise _no_memory(size, error) from error
    return fd, ring


def _no_memory(size: int, error: OSError) -> RunError:
    if error.errno not in {errno.ENOSPC, errno.ENOMEM, errno.EFBIG}:
        return RunError(f"shared memory: {FOLDER} cannot be used: {error.strerror}")
    free, total = space()
    return RunError(
        f"shared memory: {size / MEBI:.1f} MiB are needed and {FOLDER} has {free / MEBI:.1f} MiB "
        f"free of {total / MEBI:.1f}; free some, give it more, or choose raw or jpeg"
    )


def space() -> tuple[int, int]:
    """Bytes of shared memory that are free, and that there are."""
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def path_of(ring: str) -> str:
    """Where the file of a ring lies."""
    return f"{FOLDER}/{PREFIX}{ring}"


def open_ring(ring: str, mode: int = os.O_RDONLY) -> int:
    """A ring's file, opened; raises `OutOfReach` where it is not there or not this user's."""
    if not re.search(RING_PATTERN, ring):
        raise OutOfReach("shared memory: the reference holds no id of a ring")
    try:
        fd = os.open(path_of(ring), mode | os.O_NOFOLLOW | os.O_CLOEXEC)
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


def write_layout(memory: mmap.mmap, slots: int, slot_bytes: int) -> None:
    """Write at its beginning what a ring's memory holds."""
    _LAYOUT.pack_into(memory, 0, _MAGIC, _VERSION, slots, slot_bytes)


def read_layout(fd: int, ring: str) -> tuple[int, int]:
    """The number of slots and their size, checked against the file that is there.

    Raises `OutOfReach` where they do not fit.
    """
    head = os.pread(fd, _LAYOUT.size, 0)
    if len(head) == _LAYOUT.size:
        magic, version, slots, slot_bytes = _LAYOUT.unpack(head)
        fits = PAGE + slots * slot_bytes <= os.fstat(fd).st_size
        if (magic, version) == (_MAGIC, _VERSION) and 0 < slots <= MAX_SLOTS and fits:
            return slots, slot_bytes
    raise OutOfReach(f"ring {ring}: is not laid out as this version expects")


def lock(fd: int, kind: int, byte: int) -> bool:
    """Take or give back the lock of a byte without waiting; False where another holds it."""
    request = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def close_all(files: list[int]) -> None:
    """Close files, and with them give back their locks."""
    for file in files:
        os.close(file)
