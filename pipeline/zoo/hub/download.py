"""One file over HTTP, into a partial file that a later attempt goes on with.

What came is only trusted once its size and SHA-256 are right; until then it bears the name of a
partial file. Redirects are followed, but never from an encrypted address to one that is not.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pipeline.errors import InputError, OutputError, RunError
from pipeline.inference.registry import ModelFile, check_url

SILENCE_S = 20.0
"""A server that sends nothing for so long is taken to be gone."""

_BLOCK = 1 << 16
_ATTEMPTS = 3  # that bring nothing; one that brings bytes starts the count anew
_PARTIAL_CONTENT = 206
_RANGE_REFUSED = 416

Progress = Callable[[int], None]
"""Hears how many bytes of the file are there."""


def download(
    url: str, file: ModelFile, partial: Path, progress: Progress, *, silence_s: float = SILENCE_S
) -> None:
    """Fetch `file` from `url` into `partial`, going on behind what is there already.

    A connection that breaks is taken up again where it broke. Raises `RunError` where the address
    does not give the file, leaving in `partial` what did come; `InputError` where it gives another
    one, of which nothing is kept; `OutputError` where it cannot be written.
    """
    attempts = _ATTEMPTS
    is_anew = False
    while True:
        before = _size(partial)
        try:
            if before < file.bytes:
                _fetch(url, file, partial, progress, silence_s)
            if _size(partial) == file.bytes:
                check_contents(url, file, partial)
                return
            raise RunError(f"{url}: the connection ended after {_size(partial)} bytes")
        except InputError:
            partial.unlink(missing_ok=True)
            if is_anew or not before:
                raise
            is_anew = True  # what was there before may have been wrong: once more without it
        except RunError as error:
            attempts = _ATTEMPTS if _size(partial) > before else attempts - 1
            if not attempts or isinstance(error, _RefusedError):
                if not _size(partial):
                    partial.unlink(missing_ok=True)
                raise


class _RefusedError(RunError):
    """An answer that asking again would not change."""


def check_contents(subject: str, file: ModelFile, path: Path) -> None:
    """Raise `InputError` with both hashes unless `path` holds the file that the registry means."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file.sha256:
        raise InputError(
            f"{subject}: {file.name} has SHA-256 {digest}, expected {file.sha256}; nothing is kept"
        )


def _fetch(url: str, file: ModelFile, partial: Path, progress: Progress, silence_s: float) -> None:
    """One request; appends what comes to `partial`."""
    start = _size(partial)
    headers = {"Accept-Encoding": "identity", "User-Agent": "vision"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the registry checks
        with _OPENER.open(request, timeout=silence_s) as answer:
            first, total = _extent(answer)
            if first not in (0, start):
                raise InputError(f"{url}: the server goes on from byte {first}, not from {start}")
            if total not in (None, file.bytes):
                raise InputError(
                    f"{url}: gives {total} bytes, expected the {file.bytes} of {file.name} with "
                    f"SHA-256 {file.sha256}; nothing is kept"
                )
            _copy(url, answer, file, partial, progress, append=0 < first == start)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_REFUSED and start:
            raise InputError(f"{url}: the server does not go on from byte {start}") from error
        kind = _RefusedError if error.code < 500 else RunError
        raise kind(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no address
        if isinstance(error, OSError) and error.filename == str(partial):
            raise OutputError(f"{partial}: cannot be written: {error.strerror}") from error
        cause = getattr(error, "reason", error)
        raise RunError(f"{url}: {getattr(cause, 'strerror', None) or cause}") from error


def _copy(
    url: str, answer: Any, file: ModelFile, partial: Path, progress: Progress, *, append: bool
) -> None:
    with partial.open("ab" if append else "wb") as out:
        there = _size(partial)
        progress(there)
        while block := answer.read1(_BLOCK):
            there += len(block)
            if there > file.bytes:
                raise InputError(
                    f"{url}: gives more than the {file.bytes} bytes of {file.name} with SHA-256 "
                    f"{file.sha256}; nothing is kept"
                )
            _write(out, block, partial)
            progress(there)


def _write(out: IO[bytes], block: bytes, partial: Path) -> None:
    try:
        out.write(block)
        out.flush()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            partial.unlink(missing_ok=True)
        raise OutputError(f"{partial}: cannot be written: {error.strerror}") from error


def _extent(answer: Any) -> tuple[int, int | None]:
    """Where in the file an answer begins, and the file's size where the server tells."""
    if answer.status == _PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-\d+/(\d+)$", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that the registry could name, and keeps to encryption."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        try:
            check_url(newurl)
            if req.type == "https" and urlsplit(newurl).scheme != "https":
                raise ValueError(f"from an encrypted address to {newurl}, which is not")
        except ValueError as error:
            raise _RefusedError(f"{req.full_url}: redirected: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_CarefulRedirects)
