"""Output shapes of Darknet layers, and the multiply-adds of a network."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ModelError
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

INPUT_CHANNELS = 3


class Shape(NamedTuple):
    """The output of one layer for one image."""

    channels: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}x{self.channels}"


def layer_shapes(config: DarknetConfig) -> tuple[Shape, ...]:
    """Return the output shape of each layer, in order.

    Raises `ModelError` with the line of a layer that does not fit its inputs.
    """
    shapes: list[Shape] = []
    first = config.layers[0]
    if not isinstance(first, Convolution) or first.groups != 1:
        raise _error(config, first, "expected a convolution without groups as the first layer")
    for layer in config.layers:
        entry = shapes[-1] if shapes else Shape(INPUT_CHANNELS, config.height, config.width)
        shape = _shape(config, layer, entry, shapes)
        if min(shape) < 1:
            raise _error(config, layer, f"its input of {entry} is too small")
        shapes.append(shape)
    return tuple(shapes)


def input_channels(shapes: tuple[Shape, ...], index: int) -> int:
    """Return how many channels layer `index` reads from the previous layer."""
    return shapes[index - 1].channels if index else INPUT_CHANNELS


def multiply_adds(config: DarknetConfig) -> int:
    """Return the multiply-adds of all convolutions for one image."""
    shapes = layer_shapes(config)
    total = 0
    for index, (layer, shape) in enumerate(zip(config.layers, shapes, strict=True)):
        if isinstance(layer, Convolution):
            taps = layer.size**2 * input_channels(shapes, index) // layer.groups
            total += shape.channels * shape.rows * shape.columns * taps
    return total


def _shape(config: DarknetConfig, layer: Layer, entry: Shape, earlier: list[Shape]) -> Shape:
    channels, rows, columns = entry
    if isinstance(layer, Convolution):
        if channels % layer.groups or layer.filters % layer.groups:
            raise _error(
                config,
                layer,
                f"groups={layer.groups} does not divide its {channels} channels "
                f"and {layer.filters} filters",
            )
        pad = 2 * layer.padding - layer.size
        rows, columns = ((side + pad) // layer.stride + 1 for side in (rows, columns))
        return Shape(layer.filters, rows, columns)
    if isinstance(layer, MaxPool):
        pad = layer.padding - layer.size
        rows, columns = ((side + pad) // layer.stride + 1 for side in (rows, columns))
        return Shape(channels, rows, columns)
    if isinstance(layer, Upsample):
        return Shape(channels, rows * layer.stride, columns * layer.stride)
    if isinstance(layer, Route):
        return _route_shape(config, layer, [earlier[i] for i in layer.layers])
    if isinstance(layer, Shortcut):
        for other in (earlier[i] for i in layer.layers):
            if other != entry:
                raise _error(config, layer, f"expected two equal shapes, got {entry} and {other}")
        return entry
    return _head_shape(config, layer, entry)


def _route_shape(config: DarknetConfig, layer: Route, sources: list[Shape]) -> Shape:
    first = sources[0]
    for source in sources:
        if source[1:] != first[1:]:
            raise _error(
                config, layer, f"expected inputs of one size, but got {first} and {source}"
            )
        if source.channels % layer.groups:
            raise _error(
                config, layer, f"groups={layer.groups} does not divide {source.channels} channels"
            )
    channels = sum(source.channels // layer.groups for source in sources)
    return Shape(channels, first.rows, first.columns)


def _head_shape(config: DarknetConfig, layer: Yolo, entry: Shape) -> Shape:
    expected = len(layer.anchors) * (5 + layer.classes)
    if entry.channels != expected:
        raise _error(
            config,
            layer,
            f"expected {expected} channels ({len(layer.anchors)} anchors x "
            f"(5 + {layer.classes} classes)), but the previous layer has {entry.channels}",
        )
    return entry


def _error(config: DarknetConfig, layer: Layer, message: str) -> ModelError:
    kind = type(layer).__name__.lower()
    return ModelError(f"{config.path}: line {layer.line}: [{kind}] {message}")
