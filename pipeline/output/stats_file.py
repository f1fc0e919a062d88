"""The figures of a run as one JSON file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import OutputError


def write_stats(path: Path, stats: Mapping[str, Any]) -> None:
    """Write `stats` as JSON, whole or not at all; a reader never sees half a file.

    Numbers that are not finite become null. Raises `OutputError`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(stats), indent=2) + b"\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"--stats {path}: cannot be written: {error.strerror}") from error
