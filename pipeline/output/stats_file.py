"""Writes the statistics of a run as a JSON file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import OutputError


def write_stats(path: Path, stats: Mapping[str, Any]) -> None:
    """Write `stats` as JSON atomically: a reader never sees half a file.

    A pipe or device is written to directly. If the path is a link, the file behind it is replaced.
    Numbers that are not finite become null. Raises `OutputError`.
    """
    data = msgspec.json.format(msgspec.json.encode(stats), indent=2) + b"\n"
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            target.write_bytes(data)
            return
        partial.write_bytes(data)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"--stats {path}: cannot be written: {error.strerror}") from error
