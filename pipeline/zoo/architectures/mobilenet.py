"""The MobileNet family, V1 to V4, for any width, resolution and number of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.errors import InputError
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.architectures import mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4
from pipeline.zoo.architectures.network import (
    HEAD_IN_FLOAT,
    LOGITS,
    NetworkBuilder,
    Padding,
    RandomWeights,
    Tensor,
    Weights,
)
from pipeline.zoo.graphs.edit import IMAGE
from pipeline.zoo.graphs.uint8_input import IMAGENET, Scaling
from pipeline.zoo.onnx_file import ModelProto

_WRITERS: dict[str, Callable[[NetworkBuilder, float], Tensor]] = {
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

_STEP = 32  # the product of all strides
_LARGEST_SIZE = 1024
_WIDTHS = (0.1, 4.0)
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class MobileNet:
    """One member: `width` multiplies the channels, `resolution` is the input's side in pixels.

    Raises `InputError` for an unsupported family, width, resolution or number of classes.
    """

    family: str
    width: float = 1.0
    resolution: int = 224
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.family not in _WRITERS:
            raise InputError(
                f"architecture {self.family}: unknown; known are {', '.join(FAMILIES)}"
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
        """The name of the member, such as `mobilenet_v2_0.75_160`."""
        return f"{self.family}_{self.width}_{self.resolution}"


def build_mobilenet(
    member: MobileNet,
    weights: Weights | None = None,
    *,
    scaling: Scaling = IMAGENET,
    padding: Padding = "symmetric",
) -> ModelProto:
    """Return the float graph of a member, from uint8 BGR pixels to `logits` [N, classes].

    Without `weights`, fixed random ones are used. `scaling` and `padding` are those of the weights'
    training. Raises `DependencyError` if the onnx package is not installed.
    """
    net = NetworkBuilder(
        member.resolution, weights or RandomWeights(), scaling=scaling, padding=padding
    )
    pooled = _WRITERS[member.family](net, member.width)
    return net.finish_classifier(pooled, member.classes, member.name)


def make_spec(member: MobileNet, labels: tuple[str, ...] | None = None) -> ModelSpec:
    """Return the spec of a member; without `labels`, classes are numbered.

    Raises `InputError` if there is not one label per class.
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


def float_nodes(model: ModelProto) -> list[str]:
    """Return the nodes to keep in float in int8 members: the head's sum, products in attention."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and not constants & set(node.input)
    ]
    return [*HEAD_IN_FLOAT, *products]
