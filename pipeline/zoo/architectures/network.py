"""Builder of classification networks as ONNX graphs, layer by layer, and their weights.

Batch norm is folded into the convolutions. The graph takes uint8 BGR pixels [N, size, size, 3].
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.zoo.graphs.edit import IMAGE, GraphBuilder
from pipeline.zoo.graphs.uint8_input import COLORS, IMAGENET, Scaling, pack_stem, write_packed_stem
from pipeline.zoo.onnx_file import ModelProto

Float = npt.NDArray[np.float32]

BEFORE_RELU = 2.0**0.5
"""The gain of a layer whose activation discards half of its input."""
LINEAR = 1.0
ADDED = 0.3
"""The gain of a layer that is added to its block's input, so that sums do not grow with depth."""

_BIAS_SPREAD = 0.1


class Weights(Protocol):
    """Called once per layer, in the order of the network; see `RandomWeights`."""

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        """Return a weight of `shape` (outputs, inputs, ...) and a bias (outputs,), float32.

        `gain` is the wanted ratio of the output's spread to the input's.
        """
        ...


class RandomWeights:
    """Normally distributed weights that keep the spread of activations (arXiv 1502.01852).

    An untrained network then takes the time of a trained one, in float and in int8, and no layer
    overflows or vanishes. The same seed, name and shape always give the same weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        spread = gain / np.sqrt(np.prod(shape[1:]))
        weight = rng.standard_normal(shape, np.float32)
        weight *= np.float32(spread)
        bias = rng.standard_normal(shape[0], np.float32) * np.float32(_BIAS_SPREAD)
        return weight, bias


class GivenWeights:
    """Given weights and biases, in the order of the network's layers.

    Raises `ModelError` if a shape differs or there are fewer pairs than layers.
    """

    def __init__(self, pairs: Iterable[tuple[Float, Float]]) -> None:
        self._pairs: Iterator[tuple[Float, Float]] = iter(pairs)

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        try:
            weight, bias = next(self._pairs)
        except StopIteration:
            raise ModelError(
                f"layer {name}: expected weights of {shape}, but there are no more"
            ) from (None)
        if weight.shape != shape or bias.shape != shape[:1]:
            raise ModelError(
                f"layer {name}: expected weights of {shape} and biases of {shape[:1]}, "
                f"but got {weight.shape} and {bias.shape}"
            )
        return weight, bias


LOGITS, FEATURES = "logits", "features"
HEAD_IN_FLOAT = ("head.sum", LOGITS)
"""Nodes of the classifier that gain nothing from int8."""

Activation = Literal["relu", "relu6", "hswish", "hsigmoid", "none"]
Padding = Literal["symmetric", "same"]
"""`symmetric` pads all sides equally (PyTorch); `same` pads less or nothing above and on the left
for stride 2 (TensorFlow). Both cost the same; weights are trained for one of them."""


class Tensor(NamedTuple):
    """A tensor [N, channels, size, size] of the graph."""

    name: str
    channels: int
    size: int


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8 that is at least 8 and at least 0.9 * `channels`.

    As in MobileNetV2 and its successors (arXiv 1801.04381), whose width multipliers use it.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class NetworkBuilder(GraphBuilder):
    """Builds a network; every layer method returns the tensor that it adds."""

    def __init__(
        self,
        size: int,
        weights: Weights,
        *,
        scaling: Scaling = IMAGENET,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__()
        self._size = size
        self._weights = weights
        self._scaling = scaling
        self._padding = padding

    def stem(self, channels: int, activation: Activation) -> Tensor:
        """Add a 3x3 convolution of stride 2 of the pixels; see `pack_stem`."""
        before = self._pads(3, 2)[0]
        weight, bias = self._weights("stem", (channels, COLORS, 3, 3), BEFORE_RELU)
        name = write_packed_stem(
            self, IMAGE, (self._size, self._size),
            pack_stem(weight, bias, self._scaling, before), before,
            lambda tensor: self._activate(tensor, "stem", activation),
        )  # fmt: skip
        return Tensor(name, channels, self._size // 2)

    def conv(
        self,
        entry: Tensor,
        name: str,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: Activation = "none",
        groups: int = 1,
        is_added: bool = False,
    ) -> Tensor:
        """Add a square convolution, padded so that stride 1 keeps the size, and its activation.

        `is_added` marks an output that is added to another tensor.
        """
        shape = (channels, entry.channels // groups, kernel, kernel)
        linear = ADDED if is_added else LINEAR
        gain = linear if activation in ("none", "hsigmoid") else BEFORE_RELU
        weight, bias = self._weights(name, shape, gain)
        strides, pads = [stride, stride], self._pads(kernel, stride)
        output = self._convolution(
            entry.name, name, weight, bias, strides=strides, pads=pads, group=groups
        )
        return Tensor(self._activate(output, name, activation), channels, -(-entry.size // stride))

    def depthwise(
        self, entry: Tensor, name: str, *, kernel: int, stride: int, activation: Activation
    ) -> Tensor:
        """Add a convolution of every channel separately."""
        return self.conv(
            entry, name, entry.channels,
            kernel=kernel, stride=stride, activation=activation, groups=entry.channels,
        )  # fmt: skip

    def project(
        self, tensor: Tensor, entry: Tensor, name: str, channels: int, stride: int, part: str
    ) -> Tensor:
        """Add the linear 1x1 convolution `name`.`part`, and the block's `entry` if shapes allow."""
        is_residual = stride == 1 and entry.channels == channels
        tensor = self.conv(tensor, f"{name}.{part}", channels, is_added=is_residual)
        return self.residual(entry, tensor, name) if is_residual else tensor

    def residual(self, first: Tensor, second: Tensor, name: str) -> Tensor:
        """Add the sum of two tensors of one shape, named `name`.sum."""
        return first._replace(name=self.add("Add", [first.name, second.name], f"{name}.sum"))

    def squeeze_excite(self, entry: Tensor, name: str, squeezed: int) -> Tensor:
        """Scale each channel by a gate computed from all channels' means (arXiv 1709.01507)."""
        pooled = self.add("GlobalAveragePool", [entry.name], f"{name}.pool")
        gate = self.conv(
            Tensor(pooled, entry.channels, 1), f"{name}.0", squeezed, activation="relu"
        )
        gate = self.conv(gate, f"{name}.1", entry.channels, activation="hsigmoid")
        return entry._replace(name=self.add("Mul", [entry.name, gate.name], f"{name}.scaled"))

    def pool(self, entry: Tensor) -> Tensor:
        """Add the mean of every channel."""
        return Tensor(self.add("GlobalAveragePool", [entry.name], "pool"), entry.channels, 1)

    def reshape(self, tensor: str, sizes: list[int], name: str) -> str:
        """Reshape a tensor; 0 keeps a size."""
        return self.add("Reshape", [tensor, self.shape(f"{name}.shape", sizes)], name)

    def scale(self, tensor: str, factor: float, name: str) -> str:
        """Multiply a tensor by `factor`."""
        constant = self.constant(f"{name}.factor", np.array(factor, np.float32))
        return self.add("Mul", [tensor, constant], name)

    def finish_features(self, pooled: Tensor, graph_name: str) -> ModelProto:
        """Return the network that ends in `features` [N, channels]."""
        self.add("Flatten", [pooled.name], FEATURES)
        size = self._size
        return self.make_model(graph_name, size, size, {FEATURES: [pooled.channels]})

    def finish_classifier(self, pooled: Tensor, classes: int, graph_name: str) -> ModelProto:
        """Return the network that ends in `logits` [N, classes].

        The head is a product of rank 3 and a sum instead of a Gemm: ONNX Runtime has an integer
        product with float output, so logits are not rounded, but it fuses a product of rank 2
        with its sum.
        """
        weight, bias = self._weights("head", (classes, pooled.channels), LINEAR)
        rows = self.shape("head.rows.shape", [0, 1, pooled.channels])
        name = self.add("Reshape", [pooled.name, rows], "head.rows")
        turned = self.constant("head.weight", np.ascontiguousarray(weight.T))
        name = self.add("MatMul", [name, turned], "head.product")
        name = self.add("Add", [name, self.constant("head.bias", bias)], "head.sum")
        self.add("Flatten", [name], LOGITS)
        return self.make_model(graph_name, self._size, self._size, {LOGITS: [classes]})

    def _pads(self, kernel: int, stride: int) -> list[int]:
        """Return the padding above, left, below and right; sizes are even if strides are."""
        before = after = kernel // 2
        if self._padding == "same" and stride == 2 and kernel > 1:
            before, after = kernel // 2 - 1, kernel // 2
        return [before, before, after, after]

    def _convolution(
        self,
        tensor: str,
        name: str,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        **attributes: Any,
    ) -> str:
        inputs = [
            tensor,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
        ]
        kernel = list(weight.shape[2:])
        return self.add("Conv", inputs, f"{name}.conv", kernel_shape=kernel, **attributes)

    def _activate(self, tensor: str, name: str, activation: Activation) -> str:
        if activation == "none":
            return tensor
        output = f"{name}.{activation}"
        if activation == "relu":
            return self.add("Relu", [tensor], output)
        if activation == "relu6":
            bounds = [
                self.constant(bound, np.array(value, np.float32))
                for bound, value in (("zero", 0), ("six", 6))
            ]
            return self.add("Clip", [tensor, *bounds], output)
        if activation == "hsigmoid":  # relu6(x + 3) / 6, arXiv 1905.02244
            return self.add("HardSigmoid", [tensor], output, alpha=1 / 6, beta=0.5)
        return self.add("HardSwish", [tensor], output)
