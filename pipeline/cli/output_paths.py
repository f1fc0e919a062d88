"""Refuses output files that are also inputs, or that two outputs share."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.settings import Settings

STDOUT = "-"


def check_output_paths(settings: Settings, config: Path | None, output: Path | None) -> None:
    """Check that every output has a file of its own, before anything is opened.

    `config` is the file of settings, `output` a further file that the command writes. Raises
    `ConfigError` that names both uses of a file.
    """
    read = {"the source": files_of(settings.source)}
    for name, path in (
        ("--detector", settings.detector),
        ("--classifier", settings.classifier),
        ("--manifest", settings.manifest),
        ("--config", config),
        ("--key", settings.key),
        ("--server", settings.server),
    ):
        read[name] = [os.path.expanduser(path)] if path else []
    read["--peer"] = [os.path.expanduser(peer) for peer in settings.peer]
    written: dict[str, str] = {}
    for option, target in (
        ("--record", settings.record),
        ("--jsonl", settings.jsonl),
        ("--stats", settings.stats),
        ("--output", output),
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
    """Check that a new model can be written to `output`, before anything is computed.

    Raises `ConfigError` where it is not an .onnx file or is one of the files `read`, and
    `InputError` where it cannot be written.
    """
    if output.suffix != ".onnx":
        raise ConfigError(f"--output {output}: expected a file name that ends in .onnx")
    check_new_files({"--output": output}, read)


def check_new_files(targets: Mapping[str, Path | None], read: Iterable[str | Path | None]) -> None:
    """Check that each file can be written, and that none is one of `read` or shared by two options.

    For commands that compute first and write last. `targets` are by option; None is an output that
    was not requested. Raises `InputError` that names the option.
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
    """The files that a source may read; none for a camera or an address."""
    text = str(source or "")
    if not text or text.isdigit() or "://" in text:
        return []
    files = []
    for name in {text, text.partition("?")[0]}:  # parameters follow the ?
        path = os.path.expanduser(name)
        files += glob.glob(os.path.join(glob.escape(path), "*")) if os.path.isdir(path) else [path]
        files += glob.glob(path)
    return files


def is_same(path: str, other: str) -> bool:
    """Whether two paths lead to the same file, which need not exist yet."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(path) == os.path.realpath(other)


def _is_device(path: str) -> bool:
    """Whether the path is a device such as /dev/null, which several outputs may share."""
    return os.path.exists(path) and not os.path.isfile(path)
