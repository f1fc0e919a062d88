"""`vision compare`: the same pictures through several models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.pulling import offer_models
from pipeline.cli.targets import check_new_files, files_of
from pipeline.cli.waiting import interruptible, progress_bar

if TYPE_CHECKING:
    from pipeline.zoo.evaluation.comparison import Comparison

SHOWN = 6

Pictures = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGE_OR_FOLDER", help="a picture, or a folder of them", show_default=False
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--models",
        metavar="MODEL [MODEL ...]",
        help="two models or more: names or ONNX files",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE.jpg", help="the answers side by side, as a picture"
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="all of it as one page that needs no other file"),
]
Score = Annotated[
    float, typer.Option("--score", min=0.0, max=1.0, help="leave out objects below this score")
]


def compare(
    context: typer.Context,
    images: Pictures,
    models: Models,
    output: Output = Path("vision-compare.jpg"),
    html: Html = None,
    score: Score = 0.25,
    threads: opt.Cores = None,
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    debug: opt.Debug = None,
) -> None:
    """Show what several models say of the same pictures, and what each costs on this machine.

    Examples: `vision compare street.jpg --models yolov4-tiny-int8 mine.onnx`,
    `vision compare photos --models mobilenetv2-int8 mobilenetv2-050 --html page.html`.
    A detector and a classifier have no task in common; of these a table tells what each can do.
    """
    from pipeline.cli.compare_page import page
    from pipeline.cli.compare_picture import draw_comparison, encode
    from pipeline.errors import ConfigError
    from pipeline.inference.locate import find_model

    console.configure(debug=bool(debug))
    names = [*models, *context.args]  # an option takes one; those after it are left over
    _refuse_pictures(names)
    if len(names) < 2:
        raise ConfigError(f"--models {' '.join(names)}: expected two models or more")
    offer_models(names, yes=bool(yes))
    if output.suffix.lower() not in (".jpg", ".jpeg"):
        raise ConfigError(f"--output {output}: expected a file name that ends in .jpg")
    read = [*files_of(str(images)), *map(find_model, names), manifest]
    check_new_files({"--output": output, "--html": html}, read)
    with interruptible(), progress_bar() as report:
        from pipeline.inference.manifest import read_manifest
        from pipeline.zoo.evaluation.comparison import compare as compare_models
        from pipeline.zoo.evaluation.comparison import open_contender
        from pipeline.zoo.onnx_file import write_atomically

        spec = read_manifest(manifest) if manifest else None
        opened = [
            open_contender(name, score=score, threads=threads, manifest=spec) for name in names
        ]
        found = compare_models(images, opened, shown=SHOWN, report=report)
        picture = encode(draw_comparison(found)) if found.is_comparable else None
        if picture is not None:
            write_atomically(output, picture)
        if html is not None:
            write_atomically(html, page(found, picture).encode())
    _show(found)
    if picture is not None:
        print(f"side by side: {output.resolve()}")
    if html is not None:
        print(f"page: {html.resolve()}")


def _show(found: Comparison) -> None:
    from pipeline.cli.compare_tables import tables

    for table in tables(found):
        print(table.title)
        console.show_table(table.columns, table.rows)
        for note in table.notes:
            print(note)
        print()


def _refuse_pictures(names: list[str]) -> None:
    """Raise `ConfigError` where pictures stand among the models; a model's folder is none."""
    from pipeline.errors import ConfigError
    from pipeline.inference.locate import installed_models
    from pipeline.inference.registry import registered_models
    from pipeline.zoo.datasets.image_folders import is_picture

    known = {*installed_models(), *registered_models()}
    for name in names:
        if name not in known and (is_picture(Path(name)) or Path(name).is_dir()):
            raise ConfigError(
                f"--models {name}: is a picture or a folder; expected 'vision compare PICTURE "
                "--models MODEL MODEL', the one picture or folder first"
            )
