"""Checks the output files of a command, and warns of options that have no effect."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.settings import SETTINGS, Settings

STDOUT = "-"


def check_output_paths(settings: Settings, config: Path | None, output: Path | None) -> None:
    """Check that every output has a file of its own, before anything is opened.

    `config` is the file of settings, `output` a further file that the command writes. Raises
    `ConfigError` that names both uses of a file.
    """
    read = {
        "--detector": settings.detector,
        "--classifier": settings.classifier,
        "--manifest": settings.manifest,
        "--config": config,
        "--key": settings.key,
    }
    outputs = SETTINGS["record"].about.group
    written: dict[str, str | Path | None] = {}
    for one in SETTINGS.values():
        if one.about.group == outputs and one.base is str:
            path = getattr(settings, one.name)
            written[one.option] = None if path == STDOUT else path
    written["--output"] = output
    files = {option: [str(path)] for option, path in read.items() if path}
    files |= {"the source": files_of(settings.source)}
    files |= {"--peer": _key_files(settings.peer), "--server": _key_files([settings.server or ""])}
    _check_distinct(written, files)


def check_model_target(output: Path, *read: Path) -> None:
    """Check that a new model can be written to `output`, before anything is computed.

    Raises `ConfigError` if it is not an .onnx file or is one of the files `read`, and
    `InputError` if it cannot be written.
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

    for option, target in targets.items():
        if target is not None:
            check_target(target, option, is_replaced=os.path.isfile(target))
    _check_distinct(targets, {"the input": [str(file) for file in read if file]})


def _check_distinct(
    written: Mapping[str, str | Path | None], read: Mapping[str, Iterable[str]]
) -> None:
    """Raise `ConfigError` if a file is read and written, or written by two options."""
    options: dict[str, str] = {}
    for option, target in written.items():
        if not target:
            continue
        path = str(target)
        for what, files in read.items():
            if any(_is_same(path, os.path.expanduser(file)) for file in files):
                raise ConfigError(f"{option} {path}: is a file of {what}; choose another name")
        for file, other in options.items():
            if _is_same(path, file) and not _is_device(path):
                raise ConfigError(f"{option} {path}: is the file of {other} too; choose another")
        options[path] = option


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


def _key_files(peers: Iterable[str]) -> list[str]:
    """The files of keys, which may be followed by the peer's rights: FILE.key=CAMERA."""
    return [path for peer in peers for path in (peer, peer.rpartition("=")[0]) if path]


def _is_same(path: str, other: str) -> bool:
    """Whether two paths lead to the same file, which need not exist yet."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(path) == os.path.realpath(other)


def _is_device(path: str) -> bool:
    """Whether the path is a device such as /dev/null, which several outputs may share."""
    return os.path.exists(path) and not os.path.isfile(path)


_SENT = ("payload", "quality", "await_subscriber")
_RECEIVED = ("max_frame_mb", "server")
_CONNECTED = ("key", "peer", "insecure")

logger = logging.getLogger(__name__)


def warn_of_unused_options(settings: Settings, origins: Mapping[str, str]) -> None:
    """Warn of each option without effect.

    Only of the command line: files and the environment are meant for several commands.
    """
    for reason, names in _unused(settings):
        given = [name for name in names if origins.get(name, "").startswith("option")]
        if given:
            options = ", ".join(SETTINGS[name].option for name in given)
            logger.warning("%s: without effect here, %s", options, reason)


def _unused(settings: Settings) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Settings without effect, and why."""
    source = str(settings.source or "").lower()
    is_received = bool(settings.subscribe) or source.startswith("zmq+")
    if not settings.publish:
        yield "as nothing is published (--publish ADDRESS)", _SENT
    if not is_received:
        yield "as nothing comes from another process", _RECEIVED
    if not (is_received or settings.publish):
        yield "as there is no connection to another process", _CONNECTED
