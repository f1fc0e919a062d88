"""Writes files that are complete or not there, under hidden names until they are complete.

Nobody can guess such a name, and the file is created by this process: a link that lies there is not
followed. A lock on the file tells others that its writer is at work.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import stat
import time
from pathlib import Path

from pipeline.errors import OutputError

PRIVATE = 0o600
"""The mode of files that only this user may read, such as recordings."""
SHARED = 0o666
"""The mode of other files, less what the user's mask takes away."""
_TOKEN_BYTES = 8
_ANY_TOKEN = "[0-9a-f]" * 2 * _TOKEN_BYTES
_LONGEST_STEM = 200  # bytes, so that the hidden name is a valid one
_YOUNG_S = 60.0  # an empty file of this age may not be locked yet


class PartialFile:
    """A hidden file beside `target`, which takes its place once it is complete.

    If `target` is a link, the file behind it is replaced. A file of this user that is there already
    keeps its mode. Raises `OSError` if the file cannot be created.
    """

    def __init__(self, target: Path, mode: int = SHARED) -> None:
        self.target = Path(os.path.realpath(target))
        name = _hidden_name(_stem_of(self.target), secrets.token_hex(_TOKEN_BYTES))
        self.path = self.target.with_name(name + self.target.suffix)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, mode)
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._keep_mode()
        except BaseException:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises `OSError`."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    @property
    def is_in_place(self) -> bool:
        """Whether the hidden name still stands for the file that was created."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor))
        return False

    def publish(self) -> None:
        """Give the file its name. Raises `OSError`."""
        os.replace(self.path, self.target)
        self.close()

    def discard(self) -> None:
        """Remove the file, unless it was published. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.close()

    def close(self) -> None:
        """Leave the file where it is. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _keep_mode(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            before = os.lstat(self.target)
            if stat.S_ISREG(before.st_mode) and before.st_uid == os.geteuid():
                os.fchmod(self._descriptor, stat.S_IMODE(before.st_mode) & 0o777)


def write_atomically(
    path: Path, data: bytes, subject: str = "", *, makes_folder: bool = True
) -> None:
    """Write `data` to the file `path`: a reader never sees half of it.

    A path that is not a regular file, such as a pipe, is written directly. Raises `OutputError`
    that begins with `subject`, by default the path.
    """
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            path.write_bytes(data)
            return
        if makes_folder:
            os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
        partial = PartialFile(path)
        try:
            partial.write(data)
            partial.publish()
        finally:
            partial.discard()
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{subject or path}: cannot be written: {reason}") from error
    for leftover in abandoned_files(partial.target):
        leftover.unlink(missing_ok=True)


def abandoned_files(target: Path) -> list[Path]:
    """The hidden files of killed writers of `target`."""
    stem, suffix = glob.escape(_stem_of(target)), glob.escape(target.suffix)
    return _abandoned(target.parent, _hidden_name(stem, _ANY_TOKEN) + suffix)


def abandoned_in(folder: Path) -> list[Path]:
    """The hidden files in `folder` of killed writers, whatever they wrote."""
    return _abandoned(folder, _hidden_name("*", _ANY_TOKEN) + "*")


def _abandoned(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(filter(_has_no_writer, folder.glob(pattern)))
    return []


def _has_no_writer(path: Path) -> bool:
    """Whether nobody holds the lock of a file of this user."""
    with contextlib.suppress(OSError):  # it is locked, or gone
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(file)
            is_new = not status.st_size and time.time() - status.st_mtime < _YOUNG_S
            return status.st_uid == os.geteuid() and not is_new
        finally:
            os.close(file)
    return False


def _stem_of(target: Path) -> str:
    return os.fsencode(target.stem)[:_LONGEST_STEM].decode(errors="ignore")


def _hidden_name(stem: str, token: str) -> str:
    return f".{stem}.{token}.part"
