"""Opens and reads regular files, within limits; never a pipe, a device or a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputError, VisionError

TEXT_LIMIT = 256 * 2**10
"""Bytes of a file of settings, of a manifest, or of another text that people write, at most."""
LIST_LIMIT = 2**20
"""Bytes of a file with one entry per line, such as labels, at most."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(
    path: str | Path, kind: type[VisionError] = InputError, subject: str = ""
) -> BinaryIO:
    """Open a regular file for reading; never waits, as opening a pipe or a device could.

    Raises an error of this `kind` that begins with `subject`, by default the path.
    """
    subject = subject or str(path)
    try:
        _check_regular(os.stat(path), subject, kind)
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - returned
    except OSError as error:
        raise kind(f"{subject}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character, or half of a surrogate pair
        raise kind(f"{subject}: cannot be read: not the name of a file") from error
    try:
        _check_regular(os.fstat(file.fileno()), subject, kind)  # it may have been replaced
    except VisionError:
        file.close()
        raise
    return file


def read_bytes(
    path: str | Path, limit: int, kind: type[VisionError] = InputError, subject: str = ""
) -> bytes:
    """The contents of a regular file of at most `limit` bytes.

    Raises an error of this `kind` that begins with `subject`, by default the path.
    """
    subject = subject or str(path)
    with open_regular(path, kind, subject) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise kind(f"{subject}: expected at most {_size(limit)}, but it has {_size(size)}")
        try:
            data = file.read(size + 1)
        except OSError as error:
            raise kind(f"{subject}: cannot be read: {error.strerror}") from error
    if len(data) > size:
        raise kind(f"{subject}: cannot be read: it grows meanwhile")
    return data


def read_text(
    path: str | Path,
    limit: int = TEXT_LIMIT,
    kind: type[VisionError] = InputError,
    subject: str = "",
) -> str:
    """The contents of a regular file of at most `limit` bytes of UTF-8, without a byte order mark.

    Raises an error of this `kind` that begins with `subject`, by default the path.
    """
    data = read_bytes(path, limit, kind, subject)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(
            f"{subject or path}: expected text in UTF-8, but byte {error.start} is not"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result, subject: str, kind: type[VisionError]) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise kind(f"{subject}: cannot be read: expected a regular file, but it is {found}")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
