"""Downloads over HTTP, checked by size and SHA-256.

Uses urllib: pooch would install requests and four more packages, and limits neither the size of
the answer nor redirects.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import InputError, RunError
from pipeline.inference.registry import ModelFile, check_url
from pipeline.text.display import shown_url

TIMEOUT_S = 20.0
"""A server that sends nothing for this long counts as failed."""

CONNECT_S = 60.0
SLOWEST = 10_000
"""A source counts as failed if it does not deliver a file within `CONNECT_S`, and in addition the
time that it takes at `SLOWEST` bytes per second."""

_BLOCK = 1 << 16
_ATTEMPTS = 3

Progress = Callable[[int], None]
"""Receives the number of bytes that have arrived."""


class _TransientError(RunError):
    """A failure that another attempt may not have."""


def download(url: str, file: ModelFile, progress: Progress, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the contents of `file` from `url`; transient failures are retried twice.

    Redirects are followed, but never from an encrypted address to an unencrypted one. Raises
    `RunError` if the server does not deliver the file and `InputError` if it delivers another one.
    """
    attempt = _Download(url, file, progress, timeout_s)
    attempt.start()
    try:
        attempt.join(attempt.limit_s)  # a signal interrupts it
        return checked(attempt.contents(), file.name, file.sha256, shown_url(url))
    finally:
        attempt.is_wanted = False


class _Download(threading.Thread):
    """Fetches a file on a thread of its own, because no timeout of a socket limits the whole."""

    def __init__(self, url: str, file: ModelFile, progress: Progress, timeout_s: float) -> None:
        super().__init__(name="download", daemon=True)
        self.limit_s = CONNECT_S + file.bytes / SLOWEST
        self.is_wanted = True
        self._url = url
        self._shown = shown_url(url)
        self._file = file
        self._progress = progress
        self._timeout_s = timeout_s
        self._data = b""
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Called by `start`."""
        try:
            self._data = self._fetch_with_retries()
        except BaseException as error:  # raised by `contents`
            self._failure = error

    def contents(self) -> bytes:
        """Return the file; raises why there is none, or `RunError` if it is still arriving."""
        if self.is_alive():
            raise RunError(
                f"{self._shown}: does not send the {self._file.bytes} bytes of {self._file.name} "
                f"within {self.limit_s:.0f} s"
            )
        if self._failure is not None:
            raise self._failure
        return self._data

    def _fetch_with_retries(self) -> bytes:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return _fetch(self._url, self._file, self._report, self._timeout_s)
            except _TransientError:  # noqa: PERF203 - a retry
                if not left or not self.is_wanted:
                    raise
        raise AssertionError("unreachable")

    def _report(self, there: int) -> None:
        if not self.is_wanted:
            raise _TransientError(f"{self._shown}: was given up")
        self._progress(there)


def checked(data: bytes, name: str, sha256: str, subject: str) -> bytes:
    """Return `data`. Raises `InputError` with both hashes unless it has the given SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise InputError(
            f"{subject}: {name} has SHA-256 {digest}, expected {sha256}; it is not the registered "
            f"file and is not kept"
        )
    return data


def _fetch(url: str, file: ModelFile, progress: Progress, timeout_s: float) -> bytes:
    headers = {"Accept-Encoding": "identity", "User-Agent": "vision"}
    data, shown = bytearray(), shown_url(url)
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the registry checks
        with _OPENER.open(request, timeout=timeout_s) as answer:
            length = answer.headers.get("Content-Length", "")
            if length.isdigit() and int(length) != file.bytes:
                raise _wrong_size(url, f"{length} bytes", file)
            while block := answer.read1(_BLOCK):
                data += block
                if len(data) > file.bytes:
                    raise _wrong_size(url, f"more than {file.bytes} bytes", file)
                progress(len(data))
    except urllib.error.HTTPError as error:
        kind = RunError if error.code < 500 else _TransientError
        raise kind(f"{shown}: the server answers {error.code} {error.reason}") from error
    except ValueError as error:  # not an address
        raise RunError(f"{shown}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise _TransientError(f"{shown}: {getattr(cause, 'strerror', None) or cause}") from error
    if len(data) < file.bytes:
        raise _TransientError(
            f"{shown}: the connection ended after {len(data)} of {file.bytes} bytes"
        )
    return bytes(data)


def _wrong_size(url: str, found: str, file: ModelFile) -> InputError:
    return InputError(
        f"{shown_url(url)}: sends {found}, expected the {file.bytes} bytes of {file.name} with "
        f"SHA-256 {file.sha256}"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that a registry may contain, and keeps encryption."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        try:
            check_url(newurl)
            if req.type == "https" and urlsplit(newurl).scheme != "https":
                raise ValueError(
                    f"from an encrypted address to {shown_url(newurl)}, which is not encrypted"
                )
        except ValueError as error:
            raise RunError(f"{shown_url(req.full_url)}: redirected: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)
