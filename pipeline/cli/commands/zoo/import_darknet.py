"""`vision import-darknet`: converts a Darknet cfg and its weights to an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console
from pipeline.cli.option_checks import check_model_target
from pipeline.cli.options import NEW_MODEL, PATH, Argument, Option, command

if TYPE_CHECKING:
    from pipeline.zoo.darknet.importer import ImportSummary

NAMES = Option(
    "--names",
    type=PATH,
    metavar="FILE",
    text="text file with one label per line [COCO's for 80 classes, else numbers]",
)


@command(
    "import-darknet",
    Argument("cfg", text="the .cfg file of the network", type=PATH),
    Argument("weights", text="its .weights file", type=PATH),
    NEW_MODEL,
    NAMES,
    Option("--name", metavar="TEXT", text="name stored in the model [that of the file]"),
)
def import_darknet(
    cfg: Path, weights: Path, output: Path, names: Path | None, name: str | None
) -> None:
    """Convert a YOLOv3-tiny or YOLOv4-tiny network of Darknet to an ONNX model.

    \b
    Example:
      vision import-darknet mine.cfg mine.weights --names mine.names -o mine.onnx
      vision run 0 --detector mine.onnx
    """
    from pipeline.inference.manifest import read_labels
    from pipeline.zoo.darknet.importer import import_model

    check_model_target(output, cfg, weights)
    labels = tuple(read_labels(names)) if names else None
    summary = import_model(cfg, weights, output, labels=labels, name=name)
    _show(summary, labels_given=names is not None)


def _show(summary: ImportSummary, *, labels_given: bool) -> None:
    from pipeline.inference.heads.darknet import DarknetHead

    spec = summary.spec
    entry = spec.input
    console.show(
        f"{summary.path}: {summary.layers} layers, {summary.parameters / 1e6:.2f} M parameters, "
        f"{summary.multiply_adds / 1e9:.2f} GMACs"
    )
    console.show(
        f"  input   {entry.name} [N, {entry.height}, {entry.width}, 3] "
        f"{entry.dtype} {entry.color}, {entry.fit}"
    )
    outputs = spec.head.outputs if isinstance(spec.head, DarknetHead) else ()
    for output, shape in zip(outputs, summary.heads, strict=True):
        console.show(
            f"  output  {output.output} [N, {shape.channels}, {shape.rows}, {shape.columns}], "
            f"{len(output.anchors)} anchors"
        )
    known = f"{spec.labels[0]} ... {spec.labels[-1]}"
    hint = "" if labels_given else " (defaults; --names FILE sets them)"
    console.show(f"  labels  {len(spec.labels)}: {known}{hint}")
    console.show(f"try it: vision run SOURCE --detector {summary.path}")
