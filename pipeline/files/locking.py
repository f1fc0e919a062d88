"""Locks between processes, as files that are there only while somebody holds or awaits them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; calls `on_wait` once if another process has it, and waits.

    The kernel ends the lock of a process that is killed. Raises `OSError` if it cannot be created.
    """
    lock = _acquired(path, on_wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # before the lock ends, so that it is still ours
        os.close(lock)


def _acquired(path: Path, on_wait: Callable[[], None]) -> int:
    has_waited = False
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_waited:
                    has_waited = True
                    on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):  # its holder removed it meanwhile
                if os.path.samestat(os.fstat(lock), os.lstat(path)):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
