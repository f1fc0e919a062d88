"""Reader of Darknet weights files, which folds batch norm into the convolutions.

A file holds three int32 (major, minor, revision), the number of images seen in training (int64 from
version 0.2 on, int32 before), then float32 in the order of the cfg: the biases of each convolution,
with batch norm its scales, means and variances, and its weights (out, in, rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.zoo.darknet.config import Convolution, DarknetConfig
from pipeline.zoo.darknet.shapes import input_channels, layer_shapes

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
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: expected Darknet weights, but it does not exist") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    header = _header_bytes(path, data)
    counts = _float_counts(config)
    expected = header + 4 * sum(counts.values())
    if len(data) != expected:
        kind = "short" if len(data) < expected else "long"
        raise ModelError(
            f"{path}: too {kind} for {config.path}: expected {expected} bytes, "
            f"but got {len(data)}; check that both are of one network (classes, masks, filters)"
        )
    numbers = np.frombuffer(data, "<f4", offset=header)
    if not np.isfinite(numbers).all():
        raise ModelError(f"{path}: expected finite numbers, but some are infinite or NaN")
    return _split(config, numbers, counts)


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
