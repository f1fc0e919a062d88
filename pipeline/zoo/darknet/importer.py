"""Import of Darknet's cfg and weights files as an ONNX model file.

Input `image`, uint8 BGR [N, height, width, 3]; outputs `head0`, `head1`, ... in the order of the
cfg's [yolo] layers, float32 [N, anchors * (5 + classes), rows, columns], as computed by the last
convolutions; the caller decodes them. The scale 1/255 and the order of the colours are folded into
the first convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.inference.heads.darknet import DarknetHead, DarknetOutput
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.darknet.config import (
    Convolution,
    DarknetConfig,
    Dropout,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
    read_config,
)
from pipeline.zoo.darknet.weights import (
    ConvolutionWeights,
    Shape,
    layer_shapes,
    multiply_adds,
    read_weights,
)
from pipeline.zoo.graphs.edit import IMAGE, GraphBuilder
from pipeline.zoo.onnx_file import ModelProto, save_model

_LEAKY_SLOPE = 0.1
_PLAIN_ACTIVATIONS = {"relu": "Relu", "logistic": "Sigmoid", "tanh": "Tanh"}
_PIXELS = -1
"""The layer number of the input."""


def head_name(index: int) -> str:
    """Return the output of the [yolo] layer number `index` of the file, counted from 0."""
    return f"head{index}"


def make_spec(
    config: DarknetConfig,
    labels: tuple[str, ...],
    name: str,
    *,
    source: str = "",
    licence: str = "",
) -> ModelSpec:
    """Return the spec of the graph. Raises `ModelError` if there is not one label per class."""
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
        name=IMAGE,
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


def build_graph(config: DarknetConfig, weights: Mapping[int, ConvolutionWeights]) -> ModelProto:
    """Return the network in float32. Raises `DependencyError` if onnx is not installed."""
    builder = _DarknetBuilder(config, weights)
    builder.write()
    heads = {head_name(i): shape for i, shape in enumerate(builder.heads)}
    return builder.make_model(config.path.stem, config.height, config.width, heads)


def for_pixels(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Convert weights for RGB in [0, 1] to weights for BGR in [0, 255]."""
    return np.divide(weight[:, ::-1], 255, dtype=np.float32)


class _DarknetBuilder(GraphBuilder):
    """Writes nodes layer by layer; the output tensor of layer i is `layer<i>`."""

    def __init__(self, config: DarknetConfig, weights: Mapping[int, ConvolutionWeights]) -> None:
        super().__init__()
        self._config = config
        self._weights = weights
        self._shapes = layer_shapes(config)
        self.heads: list[Shape] = []
        self._head_of = self._head_inputs()

    def write(self) -> None:
        self.add("Transpose", [IMAGE], "pixels", perm=[0, 3, 1, 2])
        self.add("Cast", ["pixels"], "pixels_float", to=self.onnx.TensorProto.FLOAT)
        for index, layer in enumerate(self._config.layers):
            self._layer(index, layer)

    def _head_inputs(self) -> dict[int, str]:
        """Return the layers whose output is a head; they get the name of the head."""
        names: dict[int, str] = {}
        for index, layer in enumerate(self._config.layers):
            if isinstance(layer, Yolo):
                names[index - 1] = head_name(len(names))
        return names

    def _tensor(self, index: int) -> str:
        if index == _PIXELS:
            return "pixels_float"
        while isinstance(self._config.layers[index], (Yolo, Dropout)):
            index -= 1  # these forward their input
        return self._head_of.get(index, f"layer{index}")

    def _layer(self, index: int, layer: Layer) -> None:
        match layer:
            case Convolution():
                self._convolution(index, layer)
            case MaxPool():
                self._maxpool(index, layer)
            case Route():
                self._route(index, layer)
            case Upsample():
                self._upsample(index, layer)
            case Shortcut():
                self._shortcut(index, layer)
            case Dropout():
                return
            case Yolo():
                self.heads.append(self._shapes[index])

    def _convolution(self, index: int, layer: Convolution) -> None:
        output = self._tensor(index)
        weight = self._weights[index].weight
        if index == 0:
            weight = for_pixels(weight)
        inputs = [
            self._tensor(index - 1),
            self.constant(f"layer{index}.weight", weight),
            self.constant(f"layer{index}.bias", self._weights[index].bias),
        ]
        linear = output if layer.activation == "linear" else f"layer{index}.linear"
        self.add(
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
        if kind in _PLAIN_ACTIVATIONS:
            self.add(_PLAIN_ACTIVATIONS[kind], [tensor], output)
        elif kind == "leaky":
            self.add("LeakyRelu", [tensor], output, alpha=_LEAKY_SLOPE)
        elif kind == "relu6":
            limits = [self.constant(f"{output}.{n}", np.array(n, np.float32)) for n in (0, 6)]
            self.add("Clip", [tensor, *limits], output)
        elif kind == "swish":
            self.add("Sigmoid", [tensor], f"{output}.gate")
            self.add("Mul", [tensor, f"{output}.gate"], output)
        elif kind == "mish":  # x * tanh(log(1 + exp(x))), arXiv 1908.08681
            self.add("Softplus", [tensor], f"{output}.softplus")
            self.add("Tanh", [f"{output}.softplus"], f"{output}.gate")
            self.add("Mul", [tensor, f"{output}.gate"], output)

    def _maxpool(self, index: int, layer: MaxPool) -> None:
        entry = self._shapes[index - 1]  # the first layer is always a convolution
        out = self._shapes[index]
        before = layer.padding // 2
        # Padding behind the last window is never read; the graph leaves it out.
        behind = [
            max(0, (outside - 1) * layer.stride + layer.size - before - inside)
            for inside, outside in ((entry.rows, out.rows), (entry.columns, out.columns))
        ]
        self.add(
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
            self.add("Identity", parts, output)
        else:
            self.add("Concat", parts, output, axis=1)

    def _slice(self, tensor: str, channels: int, layer: Route, output: str) -> str:
        width = channels // layer.groups
        start = layer.group_id * width
        bounds = {"start": start, "end": start + width, "axis": 1}
        limits = [self.shape(f"{output}.{name}", [number]) for name, number in bounds.items()]
        return self.add("Slice", [tensor, *limits], output)

    def _upsample(self, index: int, layer: Upsample) -> None:
        output = self._tensor(index)
        factors = np.array([1, 1, layer.stride, layer.stride], np.float32)
        self.add(
            "Resize",
            [self._tensor(index - 1), "", self.constant(f"{output}.scales", factors)],
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
            total = self.add("Add", [total, self._tensor(other)], name)
        self._activation(linear, output, layer.activation)


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
