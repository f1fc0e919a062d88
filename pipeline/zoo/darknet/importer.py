"""Import of Darknet's cfg and weights files as an ONNX model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.inference.spec import ModelSpec
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.graph import build_graph, make_spec
from pipeline.zoo.darknet.weights import Shape, layer_shapes, multiply_adds, read_weights
from pipeline.zoo.onnx_file import save_model

COCO_LABELS = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
    vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)
"""The 80 classes of COCO in the order in which detectors number them."""


@dataclass(frozen=True)
class ImportSummary:
    """The imported network: `heads` are the output shapes, `multiply_adds` is for one image."""

    path: Path
    spec: ModelSpec
    layers: int
    parameters: int
    multiply_adds: int
    heads: tuple[Shape, ...]


def import_model(
    config_path: str | Path,
    weights_path: str | Path,
    output: str | Path,
    *,
    labels: tuple[str, ...] | None = None,
    name: str | None = None,
    source: str = "",
    licence: str = "",
) -> ImportSummary:
    """Convert a Darknet network to the ONNX file `output`, which is written atomically.

    Without `labels`, a network of 80 classes gets COCO's labels and any other numbered ones;
    without `name`, it is named after the file. Raises `ModelError` if the cfg, the weights and the
    labels do not match, `DependencyError` if the onnx package is not installed, and `OutputError`
    if the file cannot be written.
    """
    output = Path(output)
    config = read_config(config_path)
    weights = read_weights(config, weights_path)
    spec = make_spec(
        config,
        default_labels(config.classes) if labels is None else labels,
        name or output.stem,
        source=source,
        licence=licence,
    )
    save_model(build_graph(config, weights), spec, output)
    shapes = layer_shapes(config)
    return ImportSummary(
        output,
        spec,
        layers=len(config.layers),
        parameters=sum(part.weight.size + part.bias.size for part in weights.values()),
        multiply_adds=multiply_adds(config),
        heads=tuple(shapes[config.layers.index(head)] for head in config.heads),
    )


def default_labels(classes: int) -> tuple[str, ...]:
    """Return COCO's labels for 80 classes, else `class 0`, `class 1`, ..."""
    if classes == len(COCO_LABELS):
        return COCO_LABELS
    return tuple(f"class {number}" for number in range(classes))


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read one label per line, in the order of the classes; empty lines at the end are ignored.

    Raises `ModelError` if the file cannot be read or has an empty line between labels.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: expected a text file with one label per line, but it cannot be read: {error}"
        ) from error
    labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in labels:
        raise ModelError(
            f"{path}: line {labels.index('') + 1}: expected a label, but the line is empty"
        )
    return labels
