"""Reader of Darknet weights files, which folds batch norm into the convolutions, and layer shapes.

A file holds three int32 (major, minor, revision), the number of images seen in training (int64 from
version 0.2 on, int32 before), then float32 in the order of the cfg: the biases of each convolution,
with batch norm its scales, means and variances, and its weights (out, in, rows, columns).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.text.files import open_regular, read_bytes
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
    return _head_shape(config, layer, entry) if isinstance(layer, Yolo) else entry


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


_BATCH_NORM_EPSILON = 1e-5
_VERSION_BYTES = 12


@dataclass(frozen=True)
class ConvolutionWeights:
    """Weights (out, in / groups, size, size) and biases (out,), float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def read_weights(config: DarknetConfig, path: str | Path) -> dict[int, ConvolutionWeights]:
    """Return the folded weights of each convolution of `config`, by layer number.

    Raises `ModelError` if the file is missing or does not have the length that the cfg implies.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise ModelError(f"{path}: expected Darknet weights, but it does not exist")
    with open_regular(path, ModelError) as file:
        header = _header_bytes(path, file.read(_VERSION_BYTES))
        size = os.fstat(file.fileno()).st_size
    counts = _float_counts(config)
    expected = header + 4 * sum(counts.values())
    if size != expected:  # before the file is read, which may be of any size
        kind = "short" if size < expected else "long"
        raise ModelError(
            f"{path}: too {kind} for {config.path}: expected {expected} bytes, "
            f"but got {size}; check that both are of one network (classes, masks, filters)"
        )
    data = read_bytes(path, expected, ModelError)
    numbers = np.frombuffer(data, "<f4", offset=header)
    if not np.isfinite(numbers).all():
        raise ModelError(f"{path}: expected finite numbers, but some are infinite or NaN")
    with np.errstate(over="ignore", invalid="ignore"):
        weights = _split(config, numbers, counts)
    if not all(
        np.isfinite(part.weight).all() and np.isfinite(part.bias).all() for part in weights.values()
    ):
        raise ModelError(f"{path}: its batch norm makes weights that are too large")
    return weights


def _header_bytes(path: Path, data: bytes) -> int:
    if len(data) < _VERSION_BYTES:
        raise ModelError(
            f"{path}: too short for Darknet weights: expected at least {_VERSION_BYTES} bytes, "
            f"but got {len(data)}"
        )
    major, minor, _revision = (int(number) for number in np.frombuffer(data, "<i4", 3))
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise ModelError(f"{path}: not Darknet weights: the version is {major}.{minor}")
    return _VERSION_BYTES + (8 if major * 10 + minor >= 2 else 4)


def _float_counts(config: DarknetConfig) -> dict[int, int]:
    """Return how many float32 each convolution has in the file, by layer number."""
    shapes = layer_shapes(config)
    counts = {}
    for index, layer in enumerate(config.layers):
        if isinstance(layer, Convolution):
            fan_in = input_channels(shapes, index) // layer.groups * layer.size**2
            per_filter = fan_in + (4 if layer.batch_normalize else 1)
            counts[index] = layer.filters * per_filter
    return counts


def _split(
    config: DarknetConfig, numbers: npt.NDArray[np.float32], counts: dict[int, int]
) -> dict[int, ConvolutionWeights]:
    weights = {}
    start = 0
    for index, count in counts.items():
        layer = config.layers[index]
        if not isinstance(layer, Convolution):
            raise TypeError(f"layer {index} has weights but is no convolution")
        weights[index] = _fold(layer, numbers[start : start + count].astype(np.float64))
        start += count
    return weights


def _fold(layer: Convolution, numbers: npt.NDArray[np.float64]) -> ConvolutionWeights:
    """Return one convolution for scale * (W x - mean) / sqrt(variance + epsilon) + bias."""
    rows = 4 if layer.batch_normalize else 1
    parameters = numbers[: rows * layer.filters].reshape(rows, layer.filters)
    weight = numbers[rows * layer.filters :].reshape(layer.filters, -1, layer.size, layer.size)
    bias = parameters[0]
    if layer.batch_normalize:
        _, scale, mean, variance = parameters
        factor = scale / np.sqrt(np.maximum(variance, 0.0) + _BATCH_NORM_EPSILON)
        weight = weight * factor[:, None, None, None]
        bias = bias - mean * factor
    return ConvolutionWeights(weight.astype(np.float32), bias.astype(np.float32))
