"""From Darknet's cfg and weights to a model file of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.inference.spec import ModelSpec
from pipeline.zoo.darknet.coco_labels import COCO_LABELS
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.graph import build_graph, make_spec
from pipeline.zoo.darknet.shapes import Shape, layer_shapes, multiply_adds
from pipeline.zoo.darknet.weights import read_weights
from pipeline.zoo.onnx_file import save_model


@dataclass(frozen=True)
class ImportSummary:
    """What was imported: `heads` are the outputs' shapes, `multiply_adds` is for one picture."""

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
    """Convert a Darknet network to the ONNX file `output`, which is written whole or not at all.

    Without `labels`, a network of 80 classes gets the names of COCO and any other numbered ones;
    without `name` it is called as the file is. Raises `ModelError` where the cfg, the weights and
    the labels do not fit one another, `DependencyError` without the onnx package, and
    `OutputError` where the file cannot be written.
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
    """COCO's names for 80 classes, else `class 0`, `class 1`, ..."""
    if classes == len(COCO_LABELS):
        return COCO_LABELS
    return tuple(f"class {number}" for number in range(classes))


def read_labels(path: str | Path) -> tuple[str, ...]:
    """One label a line, in the order of the classes; empty lines at the end do not count.

    Raises `ModelError` where the file cannot be read or an empty line stands between labels.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: expected a text file of one label a line, but it cannot be read: {error}"
        ) from error
    labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in labels:
        raise ModelError(
            f"{path}: line {labels.index('') + 1}: expected a label, but the line is empty"
        )
    return labels
