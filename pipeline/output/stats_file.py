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

    What is no ordinary file, such as a pipe, is written to as it is; behind a link it is the file
    that is replaced.

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
