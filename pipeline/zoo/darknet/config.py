"""Reader of Darknet cfg files, which returns a checked list of layers.

Supports the layers of YOLOv3-tiny, YOLOv4-tiny and their relatives. An unsupported option that
would change the outputs is an error that names its line; options for training are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ModelError

T = TypeVar("T")

ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "logistic", "tanh", "mish", "swish")


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
class Yolo:
    """A detection head; `anchors` are those of its mask, in input pixels."""

    line: int
    anchors: tuple[tuple[float, float], ...]
    classes: int
    scale_x_y: float


Layer = Convolution | MaxPool | Route | Upsample | Shortcut | Yolo


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
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: expected a Darknet cfg file, but it does not exist") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if "\0" in text:
        raise ModelError(
            f"{path}: expected a Darknet cfg file, which is text, but this is binary; "
            f"is it the weights file?"
        )
    sections = _read_sections(path, text)
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


class _Section:
    """One `[kind]` with its options; errors name the line."""

    def __init__(self, path: Path, kind: str, line: int) -> None:
        self.path, self.kind, self.line = path, kind, line
        self._options: dict[str, tuple[str, int]] = {}

    def add(self, name: str, value: str, line: int) -> None:
        self._options[name] = (value, line)

    def error(self, message: str, line: int | None = None) -> ModelError:
        return ModelError(f"{self.path}: line {line or self.line}: [{self.kind}] {message}")

    def wrong(self, name: str, message: str) -> ModelError:
        return self.error(f"{name}: {message}", self.line_of(name))

    def names(self) -> dict[str, int]:
        return {name: line for name, (_, line) in self._options.items()}

    def text(self, name: str, default: str) -> str:
        return self._options.get(name, (default, 0))[0]

    def line_of(self, name: str) -> int:
        return self._options.get(name, ("", self.line))[1]

    def numbers(self, name: str, kind: Callable[[str], T], minimum: T | None = None) -> list[T]:
        """Return the comma-separated values of an option, none if it is absent."""
        text = self.text(name, "")
        try:
            values = [kind(part) for part in text.split(",") if part]
        except ValueError:
            expected = "whole numbers" if kind is int else "numbers"
            raise self.wrong(name, f"expected {expected}, but got '{text}'") from None
        if minimum is not None and any(not value >= minimum for value in values):  # type: ignore[operator]
            raise self.wrong(name, f"expected at least {minimum}, but got '{text}'")
        return values

    def number(
        self, name: str, kind: Callable[[str], T], default: T | None, minimum: T | None = None
    ) -> T:
        """Return the single value of an option, which is required unless there is a default."""
        values = self.numbers(name, kind, minimum)
        if not values and default is not None:
            return default
        if len(values) != 1:
            got = f"{len(values)} values" if values else "none"
            raise self.wrong(name, f"expected one value, but got {got}")
        return values[0]

    def integer(self, name: str, default: int | None = None, minimum: int | None = None) -> int:
        return self.number(name, int, default, minimum)

    def flag(self, name: str) -> bool:
        return self.integer(name, 0) != 0

    def require(self, name: str, value: float) -> None:
        """Check that an option is absent or has the only supported value."""
        got = self.number(name, float, float(value))
        if got != value:
            raise self.error(
                f"{name}={self.text(name, '')} is not supported, only {name}={value}",
                self.line_of(name),
            )

    def activation(self, default: str) -> str:
        name = self.text("activation", default)
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise self.error(
                f"activation '{name}' is not supported; supported are {known}",
                self.line_of("activation"),
            )
        return name

    def same_both_ways(self, name: str, default: int) -> int:
        """Return a value that may also be given per axis, but must be equal for both."""
        value = self.integer(name, default, minimum=1)
        for axis in (f"{name}_x", f"{name}_y"):
            if axis in self._options:
                self.require(axis, value)
        return value


def _read_sections(path: Path, text: str) -> list[_Section]:
    """Split the text as Darknet does: whitespace is ignored, # and ; begin comments."""
    sections: list[_Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.split()).split("#", 1)[0]
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            sections.append(_Section(path, line.strip("[]").lower(), number))
            continue
        name, equals, value = line.partition("=")
        if not sections or not equals:
            raise ModelError(
                f"{path}: line {number}: expected [layer] or option=value, but got {raw.strip()!r}"
            )
        sections[-1].add(name, value, number)
    return sections


def _convolution(section: _Section, _index: int) -> Layer:
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


def _maxpool(section: _Section, _index: int) -> Layer:
    stride = section.same_both_ways("stride", 1)
    size = section.integer("size", stride, minimum=1)
    padding = section.integer("padding", size - 1, minimum=0)
    if padding > size - 1:
        raise section.wrong("padding", f"expected less than size={size}, but got {padding}")
    return MaxPool(section.line, size, stride, padding)


def _route(section: _Section, index: int) -> Layer:
    groups = section.integer("groups", 1, minimum=1)
    group_id = section.integer("group_id", 0, minimum=0)
    if group_id >= groups:
        raise section.wrong("group_id", f"expected less than groups={groups}, but got {group_id}")
    return Route(section.line, _earlier(section, "layers", index), groups, group_id)


def _upsample(section: _Section, _index: int) -> Layer:
    section.require("scale", 1)
    return Upsample(section.line, section.integer("stride", 2, minimum=1))


def _shortcut(section: _Section, index: int) -> Layer:
    layers = _earlier(section, "from", index)
    if section.text("weights_type", "none") != "none":
        raise section.error("weights_type is not supported", section.line_of("weights_type"))
    return Shortcut(section.line, layers, section.activation("linear"))


def _yolo(section: _Section, _index: int) -> Layer:
    section.require("new_coords", 0)
    flat = section.numbers("anchors", float)
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    count = section.integer("num", len(pairs), minimum=1)
    if len(flat) != 2 * count or min(flat) <= 0:
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


def _earlier(section: _Section, name: str, index: int) -> tuple[int, ...]:
    """Return layer numbers; negative ones in the file count back from this layer."""
    values = section.numbers(name, int)
    layers = tuple(value if value >= 0 else index + value for value in values)
    if not layers or not all(0 <= layer < index for layer in layers):
        raise section.wrong(
            name,
            f"expected layers before this one (number {index}), but got '{section.text(name, '')}'",
        )
    return layers


_Reader = Callable[[_Section, int], Layer]
_READERS: dict[str, _Reader] = {
    "convolutional": _convolution,
    "conv": _convolution,
    "maxpool": _maxpool,
    "max": _maxpool,
    "route": _route,
    "upsample": _upsample,
    "shortcut": _shortcut,
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


def _layer(section: _Section, index: int) -> Layer:
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
