"""`vision compare`: runs several models on the same images and shows them side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli import console
from pipeline.cli.option_checks import check_new_files, files_of
from pipeline.cli.options import PATH, YES, Argument, Option, command
from pipeline.cli.progress import interruptible, offer_models, progress_bar
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.zoo.evaluation.comparison import Comparison

SHOWN = 6

IMAGES = Argument("images", type=PATH, metavar="IMAGE_OR_FOLDER", text="an image, or a folder")
MODELS = Argument(
    "models", nargs=-1, metavar="[MODEL]...", text="two or more models: names or ONNX files"
)
FIRST_MODEL = Option(
    "--models", "first", multiple=True, metavar="MODEL [MODEL]...", text="the same, as an option"
)
OUTPUT = Option(
    "--output",
    "-o",
    type=PATH,
    default=Path("vision-compare.jpg"),
    metavar="FILE.jpg",
    text="image with the answers side by side",
)
HTML = Option("--html", type=PATH, metavar="FILE", text="a self-contained page with everything")


@command("compare", IMAGES, MODELS, FIRST_MODEL, OUTPUT, HTML, YES)
def compare(
    images: Path,
    models: tuple[str, ...],
    first: tuple[str, ...],
    output: Path,
    html: Path | None,
    yes: bool,
    **settings: Any,
) -> None:
    """Compare the answers of several models to the same images, and their cost on this machine.

    A detector and a classifier have no task in common; for these a table shows what each can do.

    \b
    Examples:
      vision compare street.jpg yolov4-tiny-int8 mine.onnx
      vision compare photos mobilenetv2-int8 mobilenetv2-050 --html page.html
    """
    names = [*first, *models]  # of '--models A B', A is the value of the option
    _check_names(names)
    offer_models(names, yes=yes)
    found, image = _compare(images, names, output, html, **settings)
    _show(found)
    if image is not None:
        console.show(f"side by side: {os.path.realpath(output)}")
    if html is not None:
        console.show(f"page: {os.path.realpath(html)}")


def _compare(
    images: Path,
    names: list[str],
    output: Path,
    html: Path | None,
    *,
    score: float,
    threads: int | None,
    manifest: str | None,
) -> tuple[Comparison, bytes | None]:
    """Run the models and write the files; gives the comparison and its image, if there is one."""
    from pipeline.inference.registry import find_model

    if output.suffix.lower() not in (".jpg", ".jpeg"):
        raise ConfigError(f"--output {output}: expected a file name that ends in .jpg")
    read = [*files_of(str(images)), *map(find_model, names), manifest]
    check_new_files({"--output": output, "--html": html}, read)
    with interruptible(), progress_bar() as report:
        from pipeline.cli.reports.compare_report import draw_comparison, page
        from pipeline.files.writing import write_atomically
        from pipeline.inference.manifest import read_manifest
        from pipeline.zoo.evaluation.comparison import compare as compare_models
        from pipeline.zoo.evaluation.comparison import open_contender

        spec = read_manifest(manifest) if manifest else None
        opened = [
            open_contender(name, score=score, threads=threads, manifest=spec) for name in names
        ]
        found = compare_models(images, opened, shown=SHOWN, report=report)
        image = draw_comparison(found) if found.is_comparable else None
        if image is not None:
            write_atomically(output, image)
        if html is not None:
            write_atomically(html, page(found, image).encode())
    return found, image


def _show(found: Comparison) -> None:
    from pipeline.cli.reports.compare_report import tables

    for table in tables(found):
        console.show(table.title)
        console.show_table(table.columns, table.rows)
        for note in table.notes:
            console.show(note)
        console.show("")


def _check_names(names: list[str]) -> None:
    """Raise `ConfigError` for fewer than two models, and for an image among the models."""
    from pipeline.images import is_image
    from pipeline.inference.registry import installed_models, registered_models

    known = {*installed_models(), *registered_models()}
    for name in names:
        if name not in known and (is_image(Path(name)) or os.path.isdir(name)):
            raise ConfigError(
                f"--models {name}: is an image or a folder; expected 'vision compare IMAGE "
                "MODEL MODEL', with one image or folder"
            )
    if len(names) < 2:
        raise ConfigError(
            f"--models{''.join(f' {name}' for name in names)}: expected two models or more"
        )
