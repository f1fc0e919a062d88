"""Temporary folders that do not stay if their owner is killed: the next one removes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import OutputError

_PREFIX = "vision-work-"
_YOUNG_S = 60.0  # a folder of this age may belong to a process that has not locked it yet


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that only this user can read; removed at the end with its contents.

    Folders of this user whose process was killed are removed first. Raises `OutputError` if no
    folder can be made.
    """
    place = Path()
    try:
        place = Path(tempfile.gettempdir())
        remove_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(
            f"temporary folder in {place}: cannot be created: {error.strerror}; set TMPDIR"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends, in whatever way
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers(place: Path) -> None:
    """Remove the folders of this user in `place` whose process does not run any more."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, of another user, or already gone
            status = os.lstat(folder)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if time.time() - status.st_mtime > _YOUNG_S:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
