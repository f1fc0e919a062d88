"""Folders of the package's files and of this user's sockets, and the SHA-256 of a file."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import ConfigError

PACKAGE = "vision"

_LOGIN_FOLDERS = "/run/user"  # with one folder per user who has logged in, on systems with systemd


def share_dirs() -> list[Path]:
    """Existing folders to search for a model, the user's choice first.

    The order: `VISION_MODELS` (several folders are separated as in PATH), the user's cache, the
    checkout's `models/`, the ament share folders of `AMENT_PREFIX_PATH`, and the installation
    prefix. Each folder is listed once. Sample images are in the subfolder `samples` of any of them.
    """
    candidates = [*_from_path_variable("VISION_MODELS"), user_cache_path(PACKAGE) / "models"]
    candidates.append(Path(__file__).resolve().parent.parent / "models")
    prefixes = [*_from_path_variable("AMENT_PREFIX_PATH"), Path(sys.prefix)]
    candidates += [prefix / "share" / PACKAGE / "models" for prefix in prefixes]
    return [folder for folder in dict.fromkeys(candidates) if os.path.isdir(folder)]


def runtime_folder() -> Path:
    """The folder of this user's sockets, which no other user can enter; made if it is missing.

    It is `vision` in `XDG_RUNTIME_DIR` or, without that variable, in `/run/user/UID`. Where neither
    is a private folder of this user, it is `vision-UID` in the temporary folder. Raises
    `ConfigError` if it cannot be made, or if another user could enter it.
    """
    user = os.geteuid()
    private = [os.environ.get("XDG_RUNTIME_DIR", ""), f"{_LOGIN_FOLDERS}/{user}"]
    parent = next((path for path in private if path and _is_private(path)), None)
    folder = Path(parent or tempfile.gettempdir()) / (PACKAGE if parent else f"{PACKAGE}-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
    if not _is_private(str(folder)):
        raise ConfigError(
            f"{folder}: expected a folder of this user with mode 0700; remove it, or set "
            f"XDG_RUNTIME_DIR to another one"
        )
    return folder


def _is_private(path: str) -> bool:
    """Whether the path is a folder of this user that no other user can enter."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return own and not status.st_mode & 0o077


def sha256_of(data: Path | bytes) -> str:
    """The SHA-256 of a file, or of bytes, in hexadecimal."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    with data.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_path_variable(name: str) -> list[Path]:
    """The folders that a variable like PATH lists; an unset or empty one lists none."""
    texts = os.environ.get(name, "").split(os.pathsep)
    return [Path(os.path.expanduser(text)) for text in texts if text]
