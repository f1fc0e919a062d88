"""YOLOv4-tiny for any input size and number of classes, as Darknet's cfg defines it.

Wang et al., arXiv 2011.08036, section 4.1. The layers are those of the Darknet importer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.inference.spec import ModelSpec
from pipeline.zoo.architectures.network import BEFORE_RELU, LINEAR, RandomWeights, Weights
from pipeline.zoo.darknet.config import (
    Convolution,
    DarknetConfig,
    Layer,
    MaxPool,
    Route,
    Upsample,
    Yolo,
)
from pipeline.zoo.darknet.importer import build_graph, default_labels, make_spec
from pipeline.zoo.darknet.weights import ConvolutionWeights, input_channels, layer_shapes
from pipeline.zoo.onnx_file import ModelProto

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (135.0, 169.0), (344.0, 319.0))
"""Width and height in input pixels, the same for every input size."""

_STEP = 32
_SIZES = (32, 2048)
_MOST_CLASSES = 10_000
_LARGE_OBJECTS = (3, 4, 5)
_SMALL_OBJECTS = (1, 2, 3)  # not 0, 1, 2: the official network was trained like this
_SCALE_X_Y = 1.05


@dataclass(frozen=True)
class YoloV4Tiny:
    """One member: `resolution` is the input's side in pixels.

    Raises `InputError` for sizes that are not multiples of 32 and for less than 1 class.
    """

    resolution: int = 416
    classes: int = 80

    def __post_init__(self) -> None:
        low, high = _SIZES
        if self.resolution % _STEP or not low <= self.resolution <= high:
            raise InputError(
                f"yolov4-tiny: input size: expected a multiple of {_STEP} from {low} to {high}, "
                f"got {self.resolution}"
            )
        if not 1 <= self.classes <= _MOST_CLASSES:
            raise InputError(
                f"yolov4-tiny: classes: expected 1 to {_MOST_CLASSES}, got {self.classes}"
            )

    @property
    def name(self) -> str:
        """The name of the member, such as `yolov4_tiny_416_80`."""
        return f"yolov4_tiny_{self.resolution}_{self.classes}"


def build_yolov4_tiny(member: YoloV4Tiny, weights: Weights | None = None) -> ModelProto:
    """Return the float graph of a member, from uint8 BGR pixels to its two raw heads.

    Without `weights`, fixed random ones are used. Raises `DependencyError` if the onnx package is
    not installed.
    """
    config = make_config(member)
    return build_graph(config, _draw(config, weights or RandomWeights()))


def make_yolo_spec(member: YoloV4Tiny) -> ModelSpec:
    """Return the spec of a member; 80 classes get COCO's labels, others are numbered."""
    return make_spec(make_config(member), default_labels(member.classes), member.name)


def make_config(member: YoloV4Tiny) -> DarknetConfig:
    """Return the network as a cfg file would describe it."""
    side = member.resolution
    layers = (
        _conv(32, 3, stride=2),
        _conv(64, 3, stride=2),
        *_partial_block(64, start=2),
        *_partial_block(128, start=10),
        *_partial_block(256, start=18),
        _conv(512, 3),
        _conv(256, 1),  # layer 27, the input of both heads
        _conv(512, 3),
        *_head(_LARGE_OBJECTS, member.classes),
        Route(0, (27,), groups=1, group_id=0),
        _conv(128, 1),
        Upsample(0, 2),
        Route(0, (33, 23), groups=1, group_id=0),
        _conv(256, 3),
        *_head(_SMALL_OBJECTS, member.classes),
    )
    return DarknetConfig(Path(member.name), side, side, letterbox=False, layers=layers)


def _conv(filters: int, size: int, stride: int = 1) -> Convolution:
    return Convolution(
        0, filters, size, stride, size // 2, groups=1, batch_normalize=True, activation="leaky"
    )


def _partial_block(filters: int, start: int) -> tuple[Layer, ...]:
    """Return a cross-stage partial block (arXiv 1911.11929)."""
    return (
        _conv(filters, 3),
        Route(0, (start,), groups=2, group_id=1),
        _conv(filters // 2, 3),
        _conv(filters // 2, 3),
        Route(0, (start + 3, start + 2), groups=1, group_id=0),
        _conv(filters, 1),
        Route(0, (start, start + 5), groups=1, group_id=0),
        MaxPool(0, size=2, stride=2, padding=1),
    )


def _head(mask: tuple[int, ...], classes: int) -> tuple[Layer, ...]:
    anchors = tuple(ANCHORS[index] for index in mask)
    filters = len(mask) * (5 + classes)
    raw = Convolution(0, filters, 1, 1, 0, groups=1, batch_normalize=False, activation="linear")
    return raw, Yolo(0, anchors, classes, _SCALE_X_Y)


def _draw(config: DarknetConfig, weights: Weights) -> dict[int, ConvolutionWeights]:
    shapes = layer_shapes(config)
    drawn = {}
    for index, layer in enumerate(config.layers):
        if isinstance(layer, Convolution):
            taps = input_channels(shapes, index) // layer.groups
            shape = (layer.filters, taps, layer.size, layer.size)
            gain = LINEAR if layer.activation == "linear" else BEFORE_RELU
            drawn[index] = ConvolutionWeights(*weights(f"layer{index}", shape, gain))
    return drawn
