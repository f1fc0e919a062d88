"""Every member of the MobileNet family by its name: V1 to V4, any width, resolution and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.architectures import mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4
from pipeline.zoo.architectures.network import (
    HEAD_IN_FLOAT,
    IMAGE,
    LOGITS,
    NetworkWriter,
    Padding,
    Tensor,
)
from pipeline.zoo.architectures.weights import RandomWeights, Weights
from pipeline.zoo.graphs.stem import IMAGENET, Scaling

if TYPE_CHECKING:
    import onnx

_WRITERS: dict[str, Callable[[NetworkWriter, float], Tensor]] = {
    "mobilenet_v1": mobilenet_v1.write,
    "mobilenet_v2": mobilenet_v2.write,
    "mobilenet_v3_large": mobilenet_v3.write_large,
    "mobilenet_v3_small": mobilenet_v3.write_small,
    "mobilenet_v4_conv_small": partial(mobilenet_v4.write, variant=mobilenet_v4.CONV_SMALL),
    "mobilenet_v4_conv_medium": partial(mobilenet_v4.write, variant=mobilenet_v4.CONV_MEDIUM),
    "mobilenet_v4_conv_large": partial(mobilenet_v4.write, variant=mobilenet_v4.CONV_LARGE),
    "mobilenet_v4_hybrid_medium": partial(mobilenet_v4.write, variant=mobilenet_v4.HYBRID_MEDIUM),
}
FAMILIES = tuple(_WRITERS)

_STEP = 32  # all strides together: sizes between halve evenly
_LARGEST_SIZE = 1024
_WIDTHS = (0.1, 4.0)
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class MobileNet:
    """One member: `width` multiplies the channels, `resolution` is the input's side in pixels.

    Raises `InputError` for a family, width, resolution or class count that there is not.
    """

    family: str
    width: float = 1.0
    resolution: int = 224
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.family not in _WRITERS:
            raise InputError(
                f"architecture {self.family}: there is none; known are {', '.join(FAMILIES)}"
            )
        low, high = _WIDTHS
        if not low <= self.width <= high:
            raise InputError(f"{self.family}: width: expected {low} to {high}, got {self.width}")
        if self.resolution % _STEP or not _STEP <= self.resolution <= _LARGEST_SIZE:
            raise InputError(
                f"{self.family}: resolution: expected a multiple of {_STEP} up to "
                f"{_LARGEST_SIZE}, got {self.resolution}"
            )
        if not 1 <= self.classes <= _MOST_CLASSES:
            raise InputError(
                f"{self.family}: classes: expected 1 to {_MOST_CLASSES}, got {self.classes}"
            )

    @property
    def name(self) -> str:
        """Such as `mobilenet_v2_0.75_160`."""
        return f"{self.family}_{self.width}_{self.resolution}"


def build_mobilenet(
    member: MobileNet,
    weights: Weights | None = None,
    *,
    scaling: Scaling = IMAGENET,
    padding: Padding = "symmetric",
) -> onnx.ModelProto:
    """The float graph of a member, from uint8 BGR pixels to `logits` [N, classes].

    `weights` are random, always the same, where none are given. `scaling` and `padding` are those
    that given weights were trained with. Raises `DependencyError` without the onnx package.
    """
    net = NetworkWriter(
        member.resolution, weights or RandomWeights(), scaling=scaling, padding=padding
    )
    pooled = _WRITERS[member.family](net, member.width)
    return net.finish_classifier(pooled, member.classes, member.name)


def make_spec(member: MobileNet, labels: tuple[str, ...] | None = None) -> ModelSpec:
    """What a user of the graph must know; labels are numbered where none are given.

    Raises `InputError` where there is not one label for each class.
    """
    labels = labels or tuple(f"class {number}" for number in range(member.classes))
    if len(labels) != member.classes:
        raise InputError(f"{member.name}: expected {member.classes} labels, got {len(labels)}")
    side = member.resolution
    return ModelSpec(
        name=member.name,
        task="classify",
        input=InputSpec(name=IMAGE, width=side, height=side),
        labels=labels,
        logits=LOGITS,
    )


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes to keep in float when a member becomes int8: the head's sum, products in attention."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and not constants & set(node.input)
    ]
    return [*HEAD_IN_FLOAT, *products]
