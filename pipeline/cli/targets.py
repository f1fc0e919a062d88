"""Refuses a run whose outputs would take the place of what it reads, or of one another."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.config import Settings
from pipeline.errors import ConfigError

STDOUT = "-"


def check_targets(settings: Settings, more: Mapping[str, object]) -> None:
    """See that every output has a file of its own, before anything is opened.

    `more` are a command's other parameters; of these `config` is read and `output` written.
    Raises `ConfigError` that names both sides.
    """
    read = {"the source": files_of(settings.source)}
    for name, path in (
        ("--detector", settings.detector),
        ("--classifier", settings.classifier),
        ("--manifest", settings.manifest),
        ("--config", more.get("config")),
        ("--key", settings.key),
        ("--server", settings.server),
    ):
        read[name] = [os.path.expanduser(str(path))] if path else []
    read["--peer"] = [os.path.expanduser(peer) for peer in settings.peer]
    written: dict[str, str] = {}
    for option, target in (
        ("--record", settings.record),
        ("--jsonl", settings.jsonl),
        ("--stats", settings.stats),
        ("--output", more.get("output")),
    ):
        path = str(target or "")
        if not path or (option == "--jsonl" and path == STDOUT):
            continue
        for what, files in read.items():
            if any(is_same(path, file) for file in files):
                raise ConfigError(f"{option} {path}: is a file of {what}; choose another name")
        for other, file in written.items():
            if is_same(path, file) and not _is_device(path):
                raise ConfigError(f"{option} {path}: is the file of {other} too; choose another")
        written[option] = path


def check_model_target(output: Path, *read: Path) -> None:
    """See that a new model can be called `output`, before anything is computed.

    Raises `ConfigError` where it is no .onnx file or one of the files `read`, `InputError` where
    it cannot be written.
    """
    if output.suffix != ".onnx":
        raise ConfigError(f"--output {output}: expected a file name that ends in .onnx")
    check_new_files({"--output": output}, read)


def check_new_files(targets: Mapping[str, Path | None], read: Iterable[str | Path | None]) -> None:
    """See that each file can be written, and that none is one of `read` or another one's.

    For commands that compute first and write last. `targets` are named by their options; None
    stands for what was not asked for. Raises `InputError` that names the option.
    """
    from pipeline.output.files import check_target

    taken = [str(file) for file in read if file]
    for option, target in targets.items():
        if target is None:
            continue
        check_target(target, option, is_replaced=target.is_file())
        if any(is_same(str(target), file) for file in taken):
            raise ConfigError(f"{option} {target}: is read or written already; choose another name")
        taken.append(str(target))


def files_of(source: str | int | None) -> list[str]:
    """The files that a source may read; one that is no file has no namesake among them."""
    text = str(source or "")
    if not text or text.isdigit() or "://" in text:
        return []
    files = []
    for name in {text, text.partition("?")[0]}:  # behind a ? are the faults that tests ask for
        path = os.path.expanduser(name)
        files += glob.glob(os.path.join(glob.escape(path), "*")) if os.path.isdir(path) else [path]
        files += glob.glob(path)
    return files


def is_same(path: str, other: str) -> bool:
    """Whether two paths lead to one file, whether or not it is there yet."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(path) == os.path.realpath(other)


def _is_device(path: str) -> bool:
    """Whether the path is something like /dev/null, which any number may write to."""
    return os.path.exists(path) and not os.path.isfile(path)
