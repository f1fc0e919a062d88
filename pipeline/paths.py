"""Folders with the files of the package (models, sample images), and the SHA-256 of a file."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = "vision"


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
