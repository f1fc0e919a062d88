"""Reader of Darknet cfg files, which returns a checked list of layers.

Supports the layers of YOLOv3-tiny, YOLOv4-tiny and their relatives. An unsupported option that
would change the outputs is an error that names its line; options for training are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.text.files import TEXT_LIMIT, open_regular, read_bytes
from pipeline.zoo.darknet.sections import Section, read_sections, short

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Convolution:
    """A convolution, batch norm if `batch_normalize`, then the activation."""

    line: int
    filters: int
    size: int
    stride: int
    padding: int
    groups: int
    batch_normalize: bool
    activation: str


@dataclass(frozen=True)
class MaxPool:
    """Max pooling; half of `padding`, rounded down, is left and above, the rest right and below."""

    line: int
    size: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Route:
    """The concatenated channels of earlier layers; of each only part `group_id` of `groups`."""

    line: int
    layers: tuple[int, ...]
    groups: int
    group_id: int


@dataclass(frozen=True)
class Upsample:
    """Every pixel repeated `stride` times in both directions."""

    line: int
    stride: int


@dataclass(frozen=True)
class Shortcut:
    """The sum of the previous layer and of earlier `layers`, then the activation."""

    line: int
    layers: tuple[int, ...]
    activation: str


@dataclass(frozen=True)
class Dropout:
    """Passes its input on: it only acts in training."""

    line: int


@dataclass(frozen=True)
class Yolo:
    """A detection head; `anchors` are those of its mask, in input pixels."""

    line: int
    anchors: tuple[tuple[float, float], ...]
    classes: int
    scale_x_y: float


Layer = Convolution | MaxPool | Route | Upsample | Shortcut | Dropout | Yolo


@dataclass(frozen=True)
class DarknetConfig:
    """A network: input size in pixels, how images are fitted to it, and its layers in order."""

    path: Path
    width: int
    height: int
    letterbox: bool
    layers: tuple[Layer, ...]

    @property
    def heads(self) -> tuple[Yolo, ...]:
        """The detection heads, in the order of the file."""
        return tuple(layer for layer in self.layers if isinstance(layer, Yolo))

    @property
    def classes(self) -> int:
        """The number of classes, the same for every head."""
        return self.heads[0].classes


def read_config(path: str | Path) -> DarknetConfig:
    """Read a cfg file.

    Raises `ModelError` with file and line if the file is missing or not text, or if it has an
    unsupported layer or option or a value out of range.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise ModelError(f"{path}: expected a Darknet cfg file, but it does not exist")
    with open_regular(path, ModelError) as file:
        if b"\0" in file.read(_HEAD_BYTES):
            raise ModelError(
                f"{path}: expected a Darknet cfg file, which is text, but this is binary; "
                f"is it the weights file?"
            )
    # Comments may be in any encoding.
    text = read_bytes(path, TEXT_LIMIT, ModelError).decode("utf-8-sig", "replace")
    sections = read_sections(path, text)
    if not sections or sections[0].kind not in ("net", "network"):
        first = f"[{sections[0].kind}]" if sections else "no section"
        raise ModelError(f"{path}: expected a Darknet cfg that begins with [net], but got {first}")
    net = sections[0]
    width, height = net.integer("width", minimum=1), net.integer("height", minimum=1)
    net.require("channels", 3)
    letterbox = net.flag("letter_box")
    layers = tuple(_layer(section, index) for index, section in enumerate(sections[1:]))
    _check_heads(path, layers)
    return DarknetConfig(path, width, height, letterbox, layers)


def _convolution(section: Section, _index: int) -> Layer:
    size = section.integer("size", 1, minimum=1)
    padding = size // 2 if section.flag("pad") else section.integer("padding", 0, minimum=0)
    return Convolution(
        section.line,
        filters=section.integer("filters", 1, minimum=1),
        size=size,
        stride=section.same_both_ways("stride", 1),
        padding=padding,
        groups=section.integer("groups", 1, minimum=1),
        batch_normalize=section.flag("batch_normalize"),
        activation=section.activation("logistic"),
    )


def _maxpool(section: Section, _index: int) -> Layer:
    stride = section.same_both_ways("stride", 1)
    size = section.integer("size", stride, minimum=1)
    padding = section.integer("padding", size - 1, minimum=0)
    if padding > size - 1:
        raise section.wrong("padding", f"expected less than size={size}, but got {padding}")
    return MaxPool(section.line, size, stride, padding)


def _route(section: Section, index: int) -> Layer:
    groups = section.integer("groups", 1, minimum=1)
    group_id = section.integer("group_id", 0, minimum=0)
    if group_id >= groups:
        raise section.wrong("group_id", f"expected less than groups={groups}, but got {group_id}")
    return Route(section.line, _earlier(section, "layers", index), groups, group_id)


def _upsample(section: Section, _index: int) -> Layer:
    section.require("scale", 1)
    return Upsample(section.line, section.integer("stride", 2, minimum=1))


def _shortcut(section: Section, index: int) -> Layer:
    layers = _earlier(section, "from", index)
    if section.text("weights_type", "none") != "none":
        raise section.error("weights_type is not supported", section.line_of("weights_type"))
    return Shortcut(section.line, layers, section.activation("linear"))


def _dropout(section: Section, _index: int) -> Layer:
    return Dropout(section.line)


def _yolo(section: Section, _index: int) -> Layer:
    section.require("new_coords", 0)
    flat = section.numbers("anchors", float)
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    count = section.integer("num", len(pairs), minimum=1)
    if not flat or len(flat) != 2 * count or min(flat) <= 0:
        raise section.wrong(
            "anchors",
            f"expected {count} pairs of positive numbers (num={count}), "
            f"but got {len(flat)} numbers",
        )
    mask = section.numbers("mask", int, minimum=0) or list(range(count))
    if max(mask) >= count:
        raise section.wrong("mask", f"expected indices below num={count}, but got {max(mask)}")
    return Yolo(
        section.line,
        anchors=tuple(pairs[i] for i in mask),
        classes=section.integer("classes", 20, minimum=1),
        scale_x_y=section.number("scale_x_y", float, 1.0, minimum=1.0),
    )


def _earlier(section: Section, name: str, index: int) -> tuple[int, ...]:
    """Return layer numbers; negative ones in the file count back from this layer."""
    values = section.numbers(name, int)
    layers = tuple(value if value >= 0 else index + value for value in values)
    if not layers or not all(0 <= layer < index for layer in layers):
        raise section.wrong(
            name,
            f"expected layers before this one (number {index}), "
            f"but got '{short(section.text(name, ''))}'",
        )
    return layers


_Reader = Callable[[Section, int], Layer]
_READERS: dict[str, _Reader] = {
    "convolutional": _convolution,
    "conv": _convolution,
    "maxpool": _maxpool,
    "max": _maxpool,
    "route": _route,
    "upsample": _upsample,
    "shortcut": _shortcut,
    "dropout": _dropout,
    "yolo": _yolo,
}

# Options that the readers of each kind use.
_UNDERSTOOD: dict[_Reader, set[str]] = {
    _convolution: {
        *("filters", "size", "stride", "stride_x", "stride_y", "pad", "padding", "groups"),
        *("batch_normalize", "activation"),
    },
    _maxpool: {"size", "stride", "stride_x", "stride_y", "padding"},
    _route: {"layers", "groups", "group_id"},
    _upsample: {"stride", "scale"},
    _dropout: {"probability", "dropblock", "dropblock_size_rel", "dropblock_size_abs"},
    _shortcut: {"from", "activation", "weights_type", "weights_normalization"},
}
# Options that change the outputs unless they have this value.
_NEUTRAL = {
    **dict.fromkeys(("dilation",), 1.0),
    **dict.fromkeys(
        (
            *("binary", "xnor", "use_bin_output", "bin_output", "flipped", "antialiasing"),
            *("sway", "rotate", "stretch", "stretch_sway", "deform", "angle"),
            *("assisted_excitation", "maxpool_depth", "coordconv", "dontload", "dontloadscales"),
        ),
        0.0,
    ),
}
# Options for training, which are ignored.
_TRAINING = {
    *("stopbackward", "train_only_bn", "receptive_field", "lr_mult", "learning_rate", "burn_in"),
    *("onlyforward", "dont_update", "burnin_update", "keep_delta_gpu", "grad_centr", "batch"),
    *("out_channels", "cbn", "momentum", "decay"),
}


def _layer(section: Section, index: int) -> Layer:
    reader = _READERS.get(section.kind)
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise section.error(f"layer not supported; supported are {known}")
    understood = _UNDERSTOOD.get(reader)
    for name, line in section.names().items():
        if name in _NEUTRAL:
            section.require(name, _NEUTRAL[name])
        elif understood is not None and name not in understood | _TRAINING:
            raise section.error(f"option '{name}' is not supported", line)
    return reader(section, index)


def _check_heads(path: Path, layers: tuple[Layer, ...]) -> None:
    heads = [layer for layer in layers if isinstance(layer, Yolo)]
    if not heads:
        raise ModelError(f"{path}: expected at least one [yolo] layer, but there is none")
    for previous, layer in zip((None, *layers), layers, strict=False):
        if isinstance(layer, Yolo) and not isinstance(previous, Convolution):
            raise ModelError(
                f"{path}: line {layer.line}: [yolo] expected a convolution as the layer before it"
            )
    for head in heads[1:]:
        if head.classes != heads[0].classes:
            raise ModelError(
                f"{path}: line {head.line}: [yolo] classes: expected {heads[0].classes} "
                f"as in line {heads[0].line}, but got {head.classes}"
            )
