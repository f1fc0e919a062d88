"""Writing a classification network as an ONNX graph, layer by layer.

Batch norm stands folded into the convolutions. The graph takes the camera's pixels as they are,
uint8 BGR [N, size, size, 3].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.zoo.architectures.weights import ADDED, BEFORE_RELU, LINEAR, Weights
from pipeline.zoo.graphs import stem
from pipeline.zoo.onnx_file import IR_VERSION, OPSET, require_onnx

if TYPE_CHECKING:
    import onnx

IMAGE, LOGITS, FEATURES = "image", "logits", "features"
HEAD_IN_FLOAT = ("head.sum", LOGITS)
"""Nodes of the classifier that gain nothing from int8."""

Activation = Literal["relu", "relu6", "hswish", "hsigmoid", "none"]
Padding = Literal["symmetric", "same"]
"""`symmetric` pads all sides alike (PyTorch), `same` less or nothing above and to the left where
the stride is 2 (TensorFlow). Both cost the same; weights are trained for one of them."""


class Tensor(NamedTuple):
    """A tensor [N, channels, size, size] of the graph."""

    name: str
    channels: int
    size: int


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and no less than nine tenths of `channels`.

    As in MobileNetV2 and its successors (arXiv 1801.04381), whose width multipliers use it.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class NetworkWriter:
    """Collects nodes and constants; every method returns the tensor that it made."""

    def __init__(
        self,
        size: int,
        weights: Weights,
        *,
        scaling: stem.Scaling = stem.IMAGENET,
        padding: Padding = "symmetric",
    ) -> None:
        self._onnx: Any = require_onnx()
        self._size = size
        self._weights = weights
        self._scaling = scaling
        self._padding = padding
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def stem(self, channels: int, activation: Activation) -> Tensor:
        """A 3x3 convolution of stride 2 of the pixels; see `stem.pack_stem`."""
        size, columns = self._size, self._size // stem.GROUP
        before = self._pads(3, 2)[0]
        weight, bias = self._weights("stem", (channels, stem.COLORS, 3, 3), BEFORE_RELU)
        packed = stem.pack_stem(weight, bias, self._scaling, before)
        grouped = self._shape("stem.in", [0, size, columns, stem.COLORS * stem.GROUP])
        name = self.node("Reshape", [IMAGE, grouped], "stem.grouped")
        constant = stem.CHANNELS - stem.COLORS * stem.GROUP
        pads = self._shape("stem.pads", [0, 0, 0, 0, 0, 0, 0, constant])
        inside = self._constant("stem.inside", np.array(255, np.uint8))
        name = self.node("Pad", [name, pads, inside], "stem.padded")
        name = self.node("Transpose", [name], "stem.pixels", perm=[0, 3, 1, 2])
        name = self.node("Cast", [name], "stem.float", to=self._onnx.TensorProto.FLOAT)
        sides = [before, before, 1 - before, 1 - before]
        name = self._convolution(name, "stem", *packed, strides=[2, 1], pads=sides, group=1)
        name = self._activate(name, "stem", activation)
        name = self.node("Transpose", [name], "stem.rows", perm=[0, 2, 3, 1])
        ungrouped = self._shape("stem.out", [0, size // 2, size // 2, channels])
        name = self.node("Reshape", [name, ungrouped], "stem.ungrouped")
        name = self.node("Transpose", [name], "stem.output", perm=[0, 3, 1, 2])
        return Tensor(name, channels, size // 2)

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
        """A square convolution, padded so that stride 1 keeps the size, and its activation.

        `is_added` says that the output is going to be added to another tensor.
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
        """A convolution of every channel on its own."""
        return self.conv(
            entry, name, entry.channels,
            kernel=kernel, stride=stride, activation=activation, groups=entry.channels,
        )  # fmt: skip

    def add(self, first: Tensor, second: Tensor, name: str) -> Tensor:
        """The sum of two tensors of one shape, called `name`.sum."""
        return first._replace(name=self.node("Add", [first.name, second.name], f"{name}.sum"))

    def squeeze_excite(self, entry: Tensor, name: str, squeezed: int) -> Tensor:
        """Every channel times a number that all channels' means decide (arXiv 1709.01507)."""
        pooled = self.node("GlobalAveragePool", [entry.name], f"{name}.pool")
        gate = self.conv(
            Tensor(pooled, entry.channels, 1), f"{name}.0", squeezed, activation="relu"
        )
        gate = self.conv(gate, f"{name}.1", entry.channels, activation="hsigmoid")
        return entry._replace(name=self.node("Mul", [entry.name, gate.name], f"{name}.scaled"))

    def pool(self, entry: Tensor) -> Tensor:
        """The mean of every channel."""
        return Tensor(self.node("GlobalAveragePool", [entry.name], "pool"), entry.channels, 1)

    def reshape(self, tensor: str, sizes: list[int], name: str) -> str:
        """The same numbers in another shape; 0 keeps a size."""
        return self.node("Reshape", [tensor, self._shape(f"{name}.shape", sizes)], name)

    def scale(self, tensor: str, factor: float, name: str) -> str:
        """Every number times `factor`."""
        constant = self._constant(f"{name}.factor", np.array(factor, np.float32))
        return self.node("Mul", [tensor, constant], name)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Any node with one output, which gives it its name."""
        self._nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        return output

    def finish_features(self, pooled: Tensor, graph_name: str) -> onnx.ModelProto:
        """The network that ends in `features` [N, channels]."""
        self.node("Flatten", [pooled.name], FEATURES)
        return self._finish(graph_name, FEATURES, pooled.channels)

    def finish_classifier(self, pooled: Tensor, classes: int, graph_name: str) -> onnx.ModelProto:
        """The network that ends in `logits` [N, classes].

        A product of rank 3 and a sum rather than Gemm: ONNX Runtime has an integer product with
        float output, so that logits are not rounded, but joins a product of rank 2 with its sum.
        """
        weight, bias = self._weights("head", (classes, pooled.channels), LINEAR)
        rows = self._shape("head.rows.shape", [0, 1, pooled.channels])
        name = self.node("Reshape", [pooled.name, rows], "head.rows")
        turned = self._constant("head.weight", np.ascontiguousarray(weight.T))
        name = self.node("MatMul", [name, turned], "head.product")
        name = self.node("Add", [name, self._constant("head.bias", bias)], "head.sum")
        self.node("Flatten", [name], LOGITS)
        return self._finish(graph_name, LOGITS, classes)

    def _finish(self, graph_name: str, output: str, width: int) -> onnx.ModelProto:
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        entry = helper.make_tensor_value_info(
            IMAGE, kinds.UINT8, ["N", self._size, self._size, stem.COLORS]
        )
        answer = helper.make_tensor_value_info(output, kinds.FLOAT, ["N", width])
        constants = list(self._constants.values())
        model: onnx.ModelProto = helper.make_model(
            helper.make_graph(self._nodes, graph_name, [entry], [answer], constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vision",
        )
        return model

    def _pads(self, kernel: int, stride: int) -> list[int]:
        """Padding above, to the left, below and to the right; sizes are even where strides are."""
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
            self._constant(f"{name}.weight", weight),
            self._constant(f"{name}.bias", bias),
        ]
        kernel = list(weight.shape[2:])
        return self.node("Conv", inputs, f"{name}.conv", kernel_shape=kernel, **attributes)

    def _activate(self, tensor: str, name: str, activation: Activation) -> str:
        if activation == "none":
            return tensor
        output = f"{name}.{activation}"
        if activation == "relu":
            return self.node("Relu", [tensor], output)
        if activation == "relu6":
            bounds = [
                self._constant(bound, np.array(value, np.float32))
                for bound, value in (("zero", 0), ("six", 6))
            ]
            return self.node("Clip", [tensor, *bounds], output)
        if activation == "hsigmoid":  # relu6(x + 3) / 6, arXiv 1905.02244
            return self.node("HardSigmoid", [tensor], output, alpha=1 / 6, beta=0.5)
        return self.node("HardSwish", [tensor], output)

    def _shape(self, name: str, sizes: list[int]) -> str:
        return self._constant(name, np.array(sizes, np.int64))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name
