"""MobileNetV2 1.0 as an ONNX graph, from a PyTorch state dict of its convolutions.

Batch norm is folded into the convolutions, and so is the scaling of ImageNet training. The graph
takes uint8 BGR pixels [N, 224, 224, 3].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.zoo.architectures import mobilenet_v2
from pipeline.zoo.architectures.network import HEAD_IN_FLOAT, GivenWeights, NetworkBuilder
from pipeline.zoo.onnx_file import ModelProto

INPUT_SIZE = 224
FLOAT_NODES = HEAD_IN_FLOAT
FEATURES = mobilenet_v2.FEATURES
_GRAPH = "mobilenetv2"
_BATCH_NORM_EPSILON = 1e-5

Float = npt.NDArray[np.float32]
State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Convolution:
    """A convolution with folded batch norm."""

    name: str
    weight: Float
    bias: Float
    stride: int
    groups: int
    relu6: bool

    def scale_output(self, factors: Float) -> Convolution:
        """Return a copy with every output channel multiplied by its factor, before ReLU6."""
        weight = self.weight * factors[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias * factors)

    def scale_input(self, factors: Float) -> Convolution:
        """Return a copy for input channels that are scaled by these factors."""
        if self.groups > 1:
            return replace(self, weight=self.weight / factors[:, None, None, None])
        return replace(self, weight=self.weight / factors[:, None, None])


@dataclass(frozen=True)
class Block:
    """Consecutive convolutions; `residual` adds the block's input to its output."""

    convolutions: tuple[Convolution, ...]
    residual: bool


def read_blocks(state: State) -> list[Block]:
    """Read the backbone of MobileNetV2 1.0 from `state`, with folded batch norm.

    Raises `ModelError` if a tensor is missing or has another shape.
    """
    stem = _fold(state, "features.0.0", "features.0.1", (mobilenet_v2.STEM, 3, 3, 3), stride=2)
    blocks = [Block((stem,), residual=False)]
    channels = mobilenet_v2.STEM
    for expansion, out, repeats, first_stride in mobilenet_v2.STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix = f"features.{len(blocks)}.conv"
            blocks.append(_read_bottleneck(state, prefix, channels, out, expansion, stride))
            channels = out
    last = f"features.{len(blocks)}"
    head = _fold(state, f"{last}.0", f"{last}.1", (FEATURES, channels, 1, 1))
    return [*blocks, Block((head,), residual=False)]


def _read_bottleneck(
    state: State, prefix: str, channels: int, out: int, expansion: int, stride: int
) -> Block:
    """Read an inverted residual: expand (unless the factor is 1), depthwise 3x3, project."""
    hidden = channels * expansion
    index = 0
    convolutions = []
    if expansion != 1:
        shape = (hidden, channels, 1, 1)
        convolutions.append(_fold(state, f"{prefix}.0", f"{prefix}.1", shape))
        index = 3
    convolutions.append(
        _fold(state, f"{prefix}.{index}", f"{prefix}.{index + 1}", (hidden, 1, 3, 3),
              stride=stride, groups=hidden)
    )  # fmt: skip
    index += 3
    convolutions.append(
        _fold(state, f"{prefix}.{index}", f"{prefix}.{index + 1}", (out, hidden, 1, 1), relu6=False)
    )
    return Block(tuple(convolutions), residual=stride == 1 and channels == out)


def _fold(
    state: State, conv: str, norm: str, shape: tuple[int, ...], *,
    stride: int = 1, groups: int = 1, relu6: bool = True,
) -> Convolution:  # fmt: skip
    """Fold batch norm into its convolution (arXiv 1502.03167, inference form)."""
    weight = _tensor(state, f"{conv}.weight", shape)
    gamma, beta, mean, variance = (
        _tensor(state, f"{norm}.{part}", shape[:1])
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
    return Convolution(
        name=conv,
        weight=(weight * factor[:, None, None, None]).astype(np.float32),
        bias=(beta - mean * factor).astype(np.float32),
        stride=stride,
        groups=groups,
        relu6=relu6,
    )


def _tensor(state: State, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if name not in state:
        raise ModelError(f"MobileNetV2 weights: expected a tensor '{name}', but there is none")
    if state[name].shape != shape:
        raise ModelError(
            f"MobileNetV2 weights: expected '{name}' of shape {shape}, but got {state[name].shape}"
        )
    return state[name].astype(np.float64)


def build_mobilenet(blocks: Sequence[Block], head: tuple[Float, Float] | None = None) -> ModelProto:
    """Return the network from uint8 pixels to `features` [N, 1280], or to `logits` [N, classes].

    The latter needs a `head`, a weight (classes, 1280) and a bias (classes,), float32. Raises
    `DependencyError` if the onnx package is not installed.
    """
    layers = [(part.weight, part.bias) for block in blocks for part in block.convolutions]
    weights = GivenWeights([*layers, *([] if head is None else [head])])
    net = NetworkBuilder(INPUT_SIZE, weights)
    pooled = mobilenet_v2.write(net, width=1.0)
    if head is None:
        return net.finish_features(pooled, _GRAPH)
    return net.finish_classifier(pooled, len(head[1]), _GRAPH)
