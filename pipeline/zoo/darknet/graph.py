"""A Darknet network as an ONNX graph that takes the camera's pixels.

Input `image`, uint8 BGR [N, height, width, 3]; outputs `head0`, `head1`, ... in the order of the
cfg's [yolo] layers, float32 [N, anchors * (5 + classes), rows, columns], as they come out of the
last convolutions: decoding them is the caller's. Pixels are not scaled by a layer of their own: the
factor 1/255 and the order of the colours are folded into the first convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.inference.heads.darknet import DarknetHead, DarknetOutput
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.darknet.config import (
    Convolution,
    DarknetConfig,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)
from pipeline.zoo.darknet.shapes import Shape, layer_shapes
from pipeline.zoo.darknet.weights import ConvolutionWeights
from pipeline.zoo.onnx_file import IR_VERSION, OPSET, require_onnx

if TYPE_CHECKING:
    import onnx

INPUT = "image"
_LEAKY_SLOPE = 0.1
_PIXELS = -1
"""The layer number of the input."""


def head_name(index: int) -> str:
    """The output of the [yolo] layer number `index` of the file, counted from 0."""
    return f"head{index}"


def make_spec(
    config: DarknetConfig,
    labels: tuple[str, ...],
    name: str,
    *,
    source: str = "",
    licence: str = "",
) -> ModelSpec:
    """What a user of the graph must know.

    Raises `ModelError` where there is not one label for each class.
    """
    if len(labels) != config.classes:
        raise ModelError(
            f"{config.path}: expected {config.classes} labels (classes={config.classes}), "
            f"but got {len(labels)}"
        )
    outputs = tuple(
        DarknetOutput(output=head_name(i), anchors=head.anchors, scale_x_y=head.scale_x_y)
        for i, head in enumerate(config.heads)
    )
    entry = InputSpec(
        name=INPUT,
        width=config.width,
        height=config.height,
        fit="letterbox" if config.letterbox else "stretch",
    )
    return ModelSpec(
        name=name,
        task="detect",
        input=entry,
        labels=labels,
        head=DarknetHead(outputs=outputs),
        source=source,
        licence=licence,
    )


def build_graph(
    config: DarknetConfig, weights: Mapping[int, ConvolutionWeights]
) -> onnx.ModelProto:
    """The whole network in float32. Raises `DependencyError` without the onnx package."""
    onnx = require_onnx()
    writer = _GraphWriter(onnx, config, weights)
    writer.write()
    value, element = onnx.helper.make_tensor_value_info, onnx.TensorProto
    entry = value(INPUT, element.UINT8, ["N", config.height, config.width, 3])
    heads = [
        value(head_name(i), element.FLOAT, ["N", *shape]) for i, shape in enumerate(writer.heads)
    ]
    graph = onnx.helper.make_graph(
        writer.nodes, config.path.stem, [entry], heads, writer.initializers
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vision",
    )


def for_pixels(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Weights for RGB in [0, 1], changed to give the same answer for BGR in [0, 255]."""
    return np.divide(weight[:, ::-1], 255, dtype=np.float32)


class _GraphWriter:
    """Writes nodes layer by layer; layer i's output tensor is `layer<i>`."""

    def __init__(
        self, onnx: Any, config: DarknetConfig, weights: Mapping[int, ConvolutionWeights]
    ) -> None:
        self._onnx = onnx
        self._config = config
        self._weights = weights
        self._shapes = layer_shapes(config)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.heads: list[Shape] = []
        self._head_of = self._head_inputs()

    def write(self) -> None:
        self._node("Transpose", [INPUT], "pixels", perm=[0, 3, 1, 2])
        self._node("Cast", ["pixels"], "pixels_float", to=self._onnx.TensorProto.FLOAT)
        for index, layer in enumerate(self._config.layers):
            self._layer(index, layer)

    def _head_inputs(self) -> dict[int, str]:
        """Layers whose output is a head: the tensor is given the head's name at once."""
        names: dict[int, str] = {}
        for index, layer in enumerate(self._config.layers):
            if isinstance(layer, Yolo):
                names[index - 1] = head_name(len(names))
        return names

    def _tensor(self, index: int) -> str:
        if index == _PIXELS:
            return "pixels_float"
        if isinstance(self._config.layers[index], Yolo):
            index -= 1  # a head hands its input on
        return self._head_of.get(index, f"layer{index}")

    def _layer(self, index: int, layer: Layer) -> None:
        if isinstance(layer, Convolution):
            self._convolution(index, layer)
        elif isinstance(layer, MaxPool):
            self._maxpool(index, layer)
        elif isinstance(layer, Route):
            self._route(index, layer)
        elif isinstance(layer, Upsample):
            self._upsample(index, layer)
        elif isinstance(layer, Shortcut):
            self._shortcut(index, layer)
        else:
            self.heads.append(self._shapes[index])

    def _convolution(self, index: int, layer: Convolution) -> None:
        output = self._tensor(index)
        weight = self._weights[index].weight
        if index == 0:
            weight = for_pixels(weight)
        inputs = [
            self._tensor(index - 1),
            self._constant(f"layer{index}.weight", weight),
            self._constant(f"layer{index}.bias", self._weights[index].bias),
        ]
        linear = output if layer.activation == "linear" else f"layer{index}.linear"
        self._node(
            "Conv",
            inputs,
            linear,
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=layer.groups,
        )
        self._activation(linear, output, layer.activation)

    def _activation(self, tensor: str, output: str, kind: str) -> None:
        if kind == "leaky":
            self._node("LeakyRelu", [tensor], output, alpha=_LEAKY_SLOPE)
        elif kind == "relu":
            self._node("Relu", [tensor], output)
        elif kind == "relu6":
            limits = [self._constant(f"{output}.{n}", np.array(n, np.float32)) for n in (0, 6)]
            self._node("Clip", [tensor, *limits], output)
        elif kind == "logistic":
            self._node("Sigmoid", [tensor], output)
        elif kind == "tanh":
            self._node("Tanh", [tensor], output)
        elif kind == "swish":
            self._node("Sigmoid", [tensor], f"{output}.gate")
            self._node("Mul", [tensor, f"{output}.gate"], output)
        elif kind == "mish":  # x * tanh(log(1 + exp(x))), arXiv 1908.08681
            self._node("Softplus", [tensor], f"{output}.softplus")
            self._node("Tanh", [f"{output}.softplus"], f"{output}.gate")
            self._node("Mul", [tensor, f"{output}.gate"], output)

    def _maxpool(self, index: int, layer: MaxPool) -> None:
        entry, out = self._entry(index), self._shapes[index]
        before = layer.padding // 2
        # Padding behind the last window is never looked at; leaving it out keeps the graph plain.
        behind = [
            max(0, (outside - 1) * layer.stride + layer.size - before - inside)
            for inside, outside in ((entry.rows, out.rows), (entry.columns, out.columns))
        ]
        self._node(
            "MaxPool",
            [self._tensor(index - 1)],
            self._tensor(index),
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=[before, before, *behind],
        )

    def _route(self, index: int, layer: Route) -> None:
        output = self._tensor(index)
        parts = [self._tensor(i) for i in layer.layers]
        if layer.groups > 1:
            single = len(parts) == 1
            parts = [
                self._slice(
                    part, self._shapes[i].channels, layer, output if single else f"{output}.{n}"
                )
                for n, (i, part) in enumerate(zip(layer.layers, parts, strict=True))
            ]
            if single:
                return
        if len(parts) == 1:
            self._node("Identity", parts, output)
        else:
            self._node("Concat", parts, output, axis=1)

    def _slice(self, tensor: str, channels: int, layer: Route, output: str) -> str:
        width = channels // layer.groups
        start = layer.group_id * width
        bounds = {"start": start, "end": start + width, "axis": 1}
        limits = [
            self._constant(f"{output}.{name}", np.array([number], np.int64))
            for name, number in bounds.items()
        ]
        return self._node("Slice", [tensor, *limits], output)

    def _upsample(self, index: int, layer: Upsample) -> None:
        output = self._tensor(index)
        factors = np.array([1, 1, layer.stride, layer.stride], np.float32)
        self._node(
            "Resize",
            [self._tensor(index - 1), "", self._constant(f"{output}.scales", factors)],
            output,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _shortcut(self, index: int, layer: Shortcut) -> None:
        output, total = self._tensor(index), self._tensor(index - 1)
        linear = output if layer.activation == "linear" else f"{output}.linear"
        for number, other in enumerate(layer.layers, start=1):
            name = linear if number == len(layer.layers) else f"{output}.sum{number}"
            total = self._node("Add", [total, self._tensor(other)], name)
        self._activation(linear, output, layer.activation)

    def _entry(self, index: int) -> Shape:
        if index == 0:
            return Shape(3, self._config.height, self._config.width)
        return self._shapes[index - 1]

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers.append(
            self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        )
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        return output
