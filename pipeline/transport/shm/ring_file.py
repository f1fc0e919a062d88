"""The files in /dev/shm that hold rings: created, opened, locked, and removed after a crash.

A ring's writer holds a lock on its file as long as it lives. A ring without that lock belongs to a
dead writer, and the next writer that starts removes it. The locks are Linux's open file description
locks: they belong to an open file rather than to a process, and end with it, even by kill -9.

A file begins with a page that holds its layout; `ring` defines the rest.
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
from pipeline.transport.wire.schema import (
    MEBI,
    RING_PATTERN,
)

FOLDER = "/dev/shm"  # noqa: S108 - where Linux has POSIX shared memory
PREFIX = "vision-"
NOTIFY_SUFFIX = ".notify"
MAX_SLOTS = 256
PAGE = 4096

_LAYOUT = struct.Struct("=8sIIQ")  # magic, version, slots, bytes a slot
_MAGIC = b"visionrg"
_VERSION = 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid
_LIFE = 0  # the byte that the writer locks as long as it lives; slot i has byte i + 1
_BUSY = (errno.EAGAIN, errno.EACCES)

log = logging.getLogger(__name__)


class Gone(RunError):  # noqa: N818 - normal for a slow reader, not a fault
    """The frame that a reference names is not in shared memory any more."""


class OutOfReach(Gone):
    """The memory that a reference names cannot be opened at all."""


def is_available() -> bool:
    """Whether this system supports rings (Linux does)."""
    return sys.platform.startswith("linux") and os.path.isdir(FOLDER)


def remove_leftovers() -> int:
    """Remove the rings of this user's dead writers; returns how many there were.

    With a ring its socket for notifications is removed, and so is such a socket without a ring.
    """
    removed = 0
    for name in os.listdir(FOLDER):
        ring = name.removeprefix(PREFIX)
        if ring.endswith(NOTIFY_SUFFIX) and not os.path.lexists(_without_suffix(name)):
            _unlink_socket(f"{FOLDER}/{name}")
        if ring == name or not re.search(RING_PATTERN, ring):
            continue
        with contextlib.suppress(OSError, Gone):
            fd = open_ring(ring, os.O_RDWR)
            try:
                if lock(fd, fcntl.F_WRLCK, _LIFE):
                    os.unlink(path_of(ring))
                    _unlink_socket(notify_path_of(ring))
                    removed += 1
            finally:
                os.close(fd)
    if removed:
        log.info("%s: removed %d rings of processes that had died", FOLDER, removed)
    return removed


def _without_suffix(name: str) -> str:
    return f"{FOLDER}/{name.removesuffix(NOTIFY_SUFFIX)}"


def _unlink_socket(path: str) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def create(size: int) -> tuple[int, str]:
    """Create a locked file of this size; returns its descriptor and the id of its ring.

    The memory is allocated at once. Raises `RunError` with the sizes if there is not enough.
    """
    while True:
        ring = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            fd = os.open(path_of(ring), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"shared memory: {FOLDER} cannot be used: {error.strerror}") from error
        # Another writer that starts may remove the new file before it is locked.
        if lock(fd, fcntl.F_WRLCK, _LIFE) and os.fstat(fd).st_nlink:
            break
        os.close(fd)
    try:
        free, total = space()
        if (
            total and size > free
        ):  # checked first, because allocating fills the memory before it fails
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
        f"free of {total / MEBI:.1f}; free some, enlarge {FOLDER}, or choose raw or jpeg"
    )


def space() -> tuple[int, int]:
    """The free and the total bytes of shared memory."""
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def path_of(ring: str) -> str:
    """The path of a ring's file."""
    return f"{FOLDER}/{PREFIX}{ring}"


def notify_path_of(ring: str) -> str:
    """The path of the socket that readers of a ring are notified by."""
    return path_of(ring) + NOTIFY_SUFFIX


def open_ring(ring: str, mode: int = os.O_RDONLY) -> int:
    """Open a ring's file, which never waits: any user can put a FIFO into the folder.

    Raises `OutOfReach` if it does not exist, or is not a regular file of this user.
    """
    if not re.search(RING_PATTERN, ring):
        raise OutOfReach("shared memory: the reference names no ring")
    try:
        fd = os.open(path_of(ring), mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OutOfReach(
            f"ring {ring}: not found in {FOLDER}; its writer has ended, or runs in a container "
            f"with another {FOLDER}; in that case choose raw or jpeg"
        ) from error
    except OSError as error:
        raise OutOfReach(f"ring {ring}: cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return fd
    os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OutOfReach(f"ring {ring}: is not a regular file")
    raise OutOfReach(f"ring {ring}: belongs to another user")


def write_layout(memory: mmap.mmap, slots: int, slot_bytes: int) -> None:
    """Write the layout at the beginning of a ring's memory."""
    _LAYOUT.pack_into(memory, 0, _MAGIC, _VERSION, slots, slot_bytes)


def read_layout(fd: int, ring: str, max_slot_bytes: int) -> tuple[int, int]:
    """The number of slots and their size in bytes, checked against the size of the file.

    Raises `OutOfReach` if they do not fit, or if a slot has more than `max_slot_bytes`: mapping a
    ring takes up all of its memory.
    """
    head = os.pread(fd, _LAYOUT.size, 0)
    if len(head) == _LAYOUT.size:
        magic, version, slots, slot_bytes = _LAYOUT.unpack(head)
        fits = PAGE + slots * slot_bytes == os.fstat(fd).st_size
        if (magic, version) == (_MAGIC, _VERSION) and 0 < slots <= MAX_SLOTS and fits:
            if slot_bytes <= max_slot_bytes:
                return slots, slot_bytes
            raise OutOfReach(
                f"ring {ring}: has slots of {slot_bytes / MEBI:.0f} MiB; "
                f"raise --max-frame-mb if that is right"
            )
    raise OutOfReach(f"ring {ring}: has another layout than this version expects")


def lock(fd: int, kind: int, byte: int) -> bool:
    """Set or release the lock of a byte without waiting; False if another file holds it."""
    request = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def close_all(files: list[int]) -> None:
    """Close files, which releases their locks."""
    for file in files:
        os.close(file)
