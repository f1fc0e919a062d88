"""`vision models`: lists, describes, downloads and verifies models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console
from pipeline.cli.console import size_of
from pipeline.cli.options import Argument, CommandGroup, command
from pipeline.cli.progress import pull_models
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.inference.registry import Registered
    from pipeline.inference.spec import ModelSpec

NOT_HERE = "not downloaded"

NAME = Argument("name", text="name of a model, or an ONNX file")
NAMES = Argument("names", nargs=-1, required=True, text="names of models")


@command("list")
def list_models() -> None:
    """List all models: task, published accuracy, size and location."""
    from pipeline.inference.registry import installed_models, registered_models

    found, known = installed_models(), registered_models()
    if not found and not known:
        console.say("no models found; set VISION_MODELS to the folder of the models")
        return
    rows = [
        (name, *_described(path), _accuracy(known.get(name)), _size(path), str(path))
        for name, path in sorted(found.items())
    ]
    rows += [
        (name, model.entry.task, "-", "-", _accuracy(model), size_of(model.entry.size), NOT_HERE)
        for name, model in sorted(known.items())
        if name not in found
    ]
    columns = ("name", "task", "input", "classes", "published", "size", "where")
    console.show_table(columns, rows)


@command("info", NAME)
def info(name: str) -> None:
    """Describe one model: licence, accuracy, sources, inputs and outputs."""
    from pipeline.inference.registry import (
        find_model,
        installed_models,
        registered_as,
        registered_models,
    )

    model = registered_models().get(name)
    here = installed_models().get(name)
    if model is None and here is None:
        here = find_model(name)  # a path, or an error that lists the names
        model = registered_as(here)
    rows = [] if model is None else _registered_facts(model)
    spec = _read_spec(here) if here else model.spec() if model else None
    if spec is not None:
        rows += _expected_facts(spec)
    rows.append(("where", str(here or f"{NOT_HERE}: vision models pull {name}")))
    width = max(len(key) for key, _ in rows)
    console.show(name)
    for key, value in rows:
        console.show(f"  {key.ljust(width)}  {value}")


@command("pull", NAMES)
def pull(names: tuple[str, ...]) -> None:
    """Download models that are missing, and print their paths."""
    pull_models(names, console.show_path)


@command("verify", Argument("names", nargs=-1, text="names of models, or ONNX files [all]"))
def verify(names: tuple[str, ...]) -> None:
    """Compare models with the SHA-256 in the registry.

    The exit code is 2 if a model is damaged or differs.
    """
    from pipeline.inference.registry import find_model, installed_models

    found = {name: find_model(name) for name in names} if names else installed_models()
    outcomes = [(name, *_verified(name, path), str(path)) for name, path in sorted(found.items())]
    console.show_table(
        ("name", "state", "where"), [(name, said, path) for name, _, said, path in outcomes]
    )
    bad = [name for name, good, *_ in outcomes if not good]
    if bad:
        raise ModelError(f"checksum mismatch: {', '.join(bad)}; delete the file and pull it again")


@command("path", NAME)
def path(name: str) -> None:
    """Print the path of a model.

    Example: cp $(vision models path yolov4-tiny-int8) .
    """
    from pipeline.inference.registry import find_model

    console.show_path(find_model(name))


models = CommandGroup(
    "models",
    help="""List, download and verify models.

    Downloaded models are stored in the cache folder of the user, or in the first folder of the
    environment variable VISION_MODELS.

    \b
    Examples:
      vision models list
      vision models info yolov4-tiny
      vision models pull yolov4-tiny
    """,
    commands=[list_models, info, pull, verify, path],
    no_args_is_help=True,
)


def _read_spec(path: Path) -> ModelSpec:
    """The description stored in a model. Raises `ModelError` if it is damaged or has none."""
    from pipeline.inference.session import open_model

    return open_model(path).spec


def _described(path: Path) -> tuple[str, str, str]:
    """Task, input and number of classes; `unusable` for a file that cannot be opened."""
    try:
        spec = _read_spec(path)
    except ModelError as error:
        console.say(f"warning: {error}")
        return "unusable", "-", "-"
    return spec.task, f"{spec.input.width}x{spec.input.height}", str(len(spec.labels))


def _verified(name: str, path: Path) -> tuple[bool, str]:
    from pipeline.inference.registry import file_sha256, registered_as, registered_models
    from pipeline.zoo.pull import is_intact

    model = registered_models().get(name)
    try:
        if model is None:
            _read_spec(path)
            known = registered_as(path)
            return True, f"intact {known.name}" if known else "not registered; opens"
        if is_intact(model, path):
            return True, "opens; made on this machine" if model.entry.made_by else "intact"
    except ModelError as error:
        console.say(f"warning: {error}")
        return False, "unusable"
    if model.entry.made_by:
        return False, "unusable"
    expected = model.entry.files[0].sha256
    return False, f"SHA-256 {file_sha256(path)}, expected {expected}"


def _registered_facts(model: Registered) -> list[tuple[str, str]]:
    entry = model.entry
    rows = [("about", entry.about), ("task", entry.task), ("family", entry.family)]
    rows.append(("licence", entry.licence))
    if entry.published:
        rows.append(("published", f"{_accuracy(model)}: {entry.published_source}"))
    if entry.parameters:
        rows.append(("parameters", f"{entry.parameters / 1e6:.2f} M"))
    if entry.macs:
        rows.append(("multiply-adds", f"{entry.macs / 1e6:.0f} M"))
    if entry.note:
        rows.append(("note", entry.note))
    for file in entry.files:
        rows.append(("file", f"{file.name}, {file.bytes} bytes, SHA-256 {file.sha256}"))
        rows += [("  from", str(source)) for source in file.sources]
    return rows


def _expected_facts(spec: ModelSpec) -> list[tuple[str, str]]:
    entry = spec.input
    shape = [entry.height, entry.width]
    shape = [3, *shape] if entry.layout == "NCHW" else [*shape, 3]
    described = f"{entry.name} {entry.dtype} {entry.color} [N, {', '.join(map(str, shape))}]"
    rows = [("input", f"{described.strip()}, {entry.fit}")]
    if entry.dtype == "float32":
        rows.append(("pixels", f"(pixel * {entry.scale:g} - {entry.mean}) / {entry.std}"))
    if spec.head is not None:
        rows += [("output", f"{name}: {what}") for name, what in spec.head.describe().items()]
    rows.append(("labels", f"{len(spec.labels)}: {spec.labels[0]} ... {spec.labels[-1]}"))
    return rows


def _accuracy(model: Registered | None) -> str:
    """The published accuracy such as `top1 69.48 %`, or a dash."""
    figures = model.entry.published if model else {}
    return ", ".join(f"{name} {value:g} %" for name, value in figures.items()) or "-"


def _size(path: Path) -> str:
    from pipeline.inference.external import stored_bytes

    try:
        return size_of(stored_bytes(path))
    except ModelError:  # a damaged file, whose weights cannot be found
        return size_of(path.stat().st_size)
