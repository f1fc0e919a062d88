"""`vision import-darknet`: a Darknet cfg and its weights become a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.targets import check_model_target

if TYPE_CHECKING:
    from pipeline.zoo.darknet.importer import ImportSummary


Config = Annotated[
    Path, typer.Argument(metavar="CFG", help="the network's .cfg file", show_default=False)
]
Weights = Annotated[
    Path, typer.Argument(metavar="WEIGHTS", help="its .weights file", show_default=False)
]
Names = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="text file of one label a line [COCO's for 80 classes, else numbers]",
        show_default=False,
    ),
]
Name = Annotated[
    str | None, typer.Option(help="what the model calls itself [as the file]", show_default=False)
]


def import_darknet(
    config: Config,
    weights: Weights,
    output: opt.NewModel,
    names: Names = None,
    name: Name = None,
    debug: opt.Debug = None,
) -> None:
    """Convert a YOLOv3-tiny or YOLOv4-tiny network of Darknet to an ONNX file."""
    from pipeline.zoo.darknet.importer import import_model, read_labels

    console.configure(debug=bool(debug))
    check_model_target(output, config, weights)
    labels = read_labels(names) if names else None
    summary = import_model(config, weights, output, labels=labels, name=name)
    _show(summary, labels_given=names is not None)


def _show(summary: ImportSummary, *, labels_given: bool) -> None:
    spec = summary.spec
    entry = spec.input
    print(
        f"{summary.path}: {summary.layers} layers, {summary.parameters / 1e6:.2f} M parameters, "
        f"{summary.multiply_adds / 1e9:.2f} GMACs"
    )
    print(
        f"  input   {entry.name} [N, {entry.height}, {entry.width}, 3] "
        f"{entry.dtype} {entry.color}, {entry.fit}"
    )
    for head, shape in zip(spec.heads, summary.heads, strict=True):
        print(
            f"  output  {head.output} [N, {shape.channels}, {shape.rows}, {shape.columns}], "
            f"{len(head.anchors)} anchors"
        )
    known = f"{spec.labels[0]} ... {spec.labels[-1]}"
    hint = "" if labels_given else " (none were given; --names FILE sets them)"
    print(f"  labels  {len(spec.labels)}: {known}{hint}")
    print(f"try it: vision run PICTURE --detector {summary.path}")
