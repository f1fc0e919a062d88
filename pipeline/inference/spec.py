"""What a model takes and gives, as stored in the ONNX file's own metadata.

Our tools write one JSON text under the metadata key `vision`, so that a model file is complete on
its own: no side file can be lost or mixed up.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from pipeline.errors import ModelError
from pipeline.inference.heads import Head
from pipeline.inference.heads.darknet import downgrade, upgrade
from pipeline.inference.heads.family import Positive

METADATA_KEY = "vision"

PositiveInt = Annotated[int, msgspec.Meta(gt=0, le=8192)]
Triple = tuple[float, float, float]


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network's input.

    `width` and `height` are pixels. `fit` says how an image is brought to that size: `stretch`
    (each axis on its own) or `letterbox` (aspect kept, grey bars). A network of ours takes uint8
    BGR pixels in NHWC. Others get (pixel * scale - mean) / std in their `color` order. An empty
    `name` means the graph's only input.
    """

    name: str
    width: PositiveInt
    height: PositiveInt
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["uint8", "float32"] = "uint8"
    color: Literal["BGR", "RGB"] = "BGR"
    scale: Positive = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    fit: Literal["stretch", "letterbox"] = "stretch"

    def __post_init__(self) -> None:
        neutral = self.scale == 1.0 and self.mean == (0.0,) * 3 and self.std == (1.0,) * 3
        if self.dtype == "uint8" and not neutral:
            raise ValueError("scale, mean and std need an input of float32")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ValueError("scale, mean and std must be finite numbers")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is needed to run a model, and who made it.

    A detector has a `head`, whose `family` says which of `pipeline.inference.heads` it is. A
    classifier has one output, `logits`, (N, classes) float32, which is the graph's only one if its
    name is empty. `labels[i]` names class i. `source` and `licence` are informative only.
    """

    version: Literal[1] = 1
    name: str
    task: Literal["detect", "classify"]
    input: InputSpec
    labels: tuple[str, ...]
    head: Head | None = None
    logits: str | None = None
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels must name at least one class")
        if (self.task == "detect") != (self.head is not None):
            raise ValueError("a head, or heads, must be given for a detector and only for one")
        if (self.task == "classify") != (self.logits is not None):
            raise ValueError("logits must be given for a classifier and only for one")

    @property
    def shapes(self) -> dict[str, list[int | None]]:
        """The shape of each output by name, None for a size that is not fixed."""
        if self.head is not None:
            return self.head.shapes(len(self.labels))
        return {str(self.logits): [None, len(self.labels)]}


def encode_spec(spec: ModelSpec) -> str:
    """The JSON text to store under `METADATA_KEY`."""
    return msgspec.json.encode(downgrade(msgspec.to_builtins(spec))).decode()


def decode_spec(text: str | bytes, subject: str) -> ModelSpec:
    """Read and validate what `encode_spec` wrote; `subject` names the file in errors.

    Raises `ModelError` if the text is no valid spec.
    """
    subject = f"{subject}: metadata '{METADATA_KEY}' is not valid"
    try:
        data = msgspec.json.decode(text, type=dict)
        return msgspec.convert(upgrade(data, subject), ModelSpec)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ModelError(f"{subject}: {error}") from error
