"""`vision models`: which models there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.inference.spec import ModelSpec

app = typer.Typer(help="The models that can be named.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """The models that can be named."""


@app.command("list")
def list_models(debug: opt.Debug = None) -> None:
    """List the models by name: what they do, their input, their classes, and where they are."""
    from pipeline.inference.locate import installed_models

    console.configure(debug=bool(debug))
    found = installed_models()
    if not found:
        console.say("no models found; set VISION_MODELS to the folder that holds them")
        return
    rows = [
        (name, *_described(path), f"{path.stat().st_size / 1e6:.1f} MB", str(path))
        for name, path in sorted(found.items())
    ]
    console.show_table(("name", "task", "input", "classes", "size", "where"), rows)


def _described(path: Path) -> tuple[str, str, str]:
    """Task, input and classes; of a file that cannot be used, that it cannot."""
    try:
        spec = read_spec(path)
    except ModelError as error:
        console.say(f"warning: {error}")
        return "unusable", "-", "-"
    return spec.task, f"{spec.input.width}x{spec.input.height}", str(len(spec.labels))


def read_spec(path: Path) -> ModelSpec:
    """What the model file says about itself; `ModelError` where it is damaged or says nothing."""
    from pipeline.inference.session import open_model

    return open_model(path).spec
