"""`vision models`: which models there are, where they come from, and whether they are intact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.inference.registry import Registered
    from pipeline.inference.spec import ModelSpec

NOT_HERE = "to be pulled"

Names = Annotated[list[str], typer.Argument(metavar="NAME", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]

app = typer.Typer(
    help="The models that can be named: list them, fetch them, check them.", no_args_is_help=True
)


@app.callback()
def models() -> None:
    """The models that can be named: list them, fetch them, check them.

    A fetched model lies in the user's cache, or in the first folder of VISION_MODELS.
    """


@app.command("list")
def list_models(debug: opt.Debug = None) -> None:
    """List the models by name: what they do, how good they are said to be, and where they are."""
    from pipeline.inference.locate import installed_models
    from pipeline.inference.registry import registered_models

    console.configure(debug=bool(debug))
    found, known = installed_models(), registered_models()
    if not found and not known:
        console.say("no models found; set VISION_MODELS to the folder that holds them")
        return
    rows = [
        (name, *_described(path), _accuracy(known.get(name)), _size(path), str(path))
        for name, path in sorted(found.items())
    ]
    rows += [
        (name, model.entry.task, "-", "-", _accuracy(model), _megabytes(model.entry.size), NOT_HERE)
        for name, model in sorted(known.items())
        if name not in found
    ]
    columns = ("name", "task", "input", "classes", "published", "size", "where")
    console.show_table(columns, rows)


@app.command()
def info(name: Name, debug: opt.Debug = None) -> None:
    """Say all that is known of one model: licence, accuracy, sources, and what it expects.

    Example: `vision models info yolov4-tiny`.
    """
    from pipeline.inference.locate import find_model, installed_models
    from pipeline.inference.registry import registered_as, registered_models

    console.configure(debug=bool(debug))
    model = registered_models().get(name)
    here = installed_models().get(name)
    if model is None and here is None:
        here = find_model(name)  # a path, or an error that lists the names
        model = registered_as(here)
    rows = [] if model is None else _registered_facts(model)
    spec = read_spec(here) if here else model.spec() if model else None
    if spec is not None:
        rows += _expected_facts(spec)
    rows.append(("where", str(here or f"{NOT_HERE}: vision models pull {name}")))
    width = max(len(key) for key, _ in rows)
    print(name)
    for key, value in rows:
        print(f"  {key.ljust(width)}  {value}")


@app.command()
def pull(names: Names, debug: opt.Debug = None) -> None:
    """Fetch models, unless they are here already, and print where each lies.

    What breaks off is taken up again the next time. Example: `vision models pull yolov4-tiny`.
    """
    from pipeline.cli.pulling import pull_models

    console.configure(debug=bool(debug))
    pull_models(names, lambda path: print(path, flush=True))


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    debug: opt.Debug = None,
) -> None:
    """Check models that are here (all of them without NAME) against the registry's SHA-256.

    The exit code is 2 where one is not what it should be.
    """
    from pipeline.inference.locate import find_model, installed_models

    console.configure(debug=bool(debug))
    found = {name: find_model(name) for name in names} if names else installed_models()
    outcomes = [(name, *_verified(name, path), str(path)) for name, path in sorted(found.items())]
    console.show_table(
        ("name", "state", "where"), [(name, said, path) for name, _, said, path in outcomes]
    )
    bad = [name for name, good, *_ in outcomes if not good]
    if bad:
        raise ModelError(f"not what they should be: {', '.join(bad)}; move them away and pull them")


@app.command()
def path(name: Name, debug: opt.Debug = None) -> None:
    """Print the file that a name stands for, such as `cp $(vision models path NAME) .`."""
    from pipeline.inference.locate import find_model

    console.configure(debug=bool(debug))
    print(find_model(name))


def read_spec(path: Path) -> ModelSpec:
    """What the model file says about itself; `ModelError` where it is damaged or says nothing."""
    from pipeline.inference.session import open_model

    return open_model(path).spec


def _described(path: Path) -> tuple[str, str, str]:
    """Task, input and classes; of a file that cannot be used, that it cannot."""
    try:
        spec = read_spec(path)
    except ModelError as error:
        console.say(f"warning: {error}")
        return "unusable", "-", "-"
    return spec.task, f"{spec.input.width}x{spec.input.height}", str(len(spec.labels))


def _verified(name: str, path: Path) -> tuple[bool, str]:
    from pipeline.inference.registry import file_sha256, registered_as, registered_models
    from pipeline.zoo.hub.pull import is_intact

    model = registered_models().get(name)
    try:
        if model is None:
            read_spec(path)
            known = registered_as(path)
            return True, f"intact {known.name}" if known else "not registered; opens"
        if is_intact(model, path):
            return True, "opens; made here" if model.entry.made_by else "intact"
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
    rows += [
        ("output", f"{head.output}: anchors {head.anchors}, scale_x_y {head.scale_x_y:g}")
        for head in spec.heads
    ]
    rows.append(("labels", f"{len(spec.labels)}: {spec.labels[0]} ... {spec.labels[-1]}"))
    return rows


def _accuracy(model: Registered | None) -> str:
    """`top1 69.48 %`, or a dash where nothing was published."""
    figures = model.entry.published if model else {}
    return ", ".join(f"{name} {value:g} %" for name, value in figures.items()) or "-"


def _size(path: Path) -> str:
    from pipeline.inference.external import stored_bytes

    try:
        return _megabytes(stored_bytes(path))
    except (OSError, ValueError, IndexError):  # a damaged one, whose weights cannot be found
        return _megabytes(path.stat().st_size)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
