"""Rounding of weights to int8 that minimises the error of the outputs.

The inputs of a convolution are correlated, since neighbouring pixels are similar. The error of one
rounded weight is therefore compensated in the weights that are rounded after it, according to the
covariance of the inputs on real images (GPTQ, arXiv 2210.17323). The remaining mean error is
corrected in the bias (Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.zoo import Report, no_report
from pipeline.zoo.graphs.edit import clone
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs, require_onnx
from pipeline.zoo.quantization.calibration import Batch

Floats = npt.NDArray[np.float64]

WEIGHT_LEVELS = 127
PIXEL_WEIGHT_LEVELS = 64
"""Limit for weights that multiply raw pixels. x86 without VNNI adds two products of uint8 and int8
in 16 bits and saturates: pixels reach 255, and 2 * 255 * 64 fits. Other activations rarely come
near."""
_DAMPING = 0.1
"""Added to every variance, as a share of their mean, for what the images do not show."""
_LEAST_VARIANCE = 1e-4
"""Smallest variance over the squared mean; smaller ones are rounding noise of the sums."""
_SAMPLES = 700
"""Positions sampled per image."""
_SEED = 0


class QuantizedWeight(NamedTuple):
    """Int8 values (outputs, ...), and a scale and a change of the bias for each output."""

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bias_change: npt.NDArray[np.float32]


class Moments(NamedTuple):
    """Mean (n,) and covariance (n, n) of the n inputs of a node."""

    mean: Floats
    covariance: Floats


def round_to_nearest(
    weight: npt.NDArray[np.float32], levels: int = WEIGHT_LEVELS
) -> QuantizedWeight:
    """Round each weight on its own to -levels ... levels, scaled to the peak of its channel."""
    scale = _scales(weight, levels)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    values = np.clip(np.rint(weight / shaped), -levels, levels).astype(np.int8)
    return QuantizedWeight(values, scale, np.zeros(len(weight), np.float32))


def round_jointly(
    weight: npt.NDArray[np.float32], inputs: Moments, levels: int = WEIGHT_LEVELS
) -> QuantizedWeight:
    """Round the weights (outputs, ...) of each output channel jointly."""
    scale = _scales(weight, levels)
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    least = _LEAST_VARIANCE * float(np.mean(inputs.mean**2))
    power = max(float(np.diag(inputs.covariance).mean()), least) or 1.0
    damped = inputs.covariance + _DAMPING * power * np.eye(len(inputs.mean))
    order = np.argsort(-np.diag(damped), kind="stable")  # the strongest input first
    values = np.empty_like(flat)
    values[:, order] = _spread_errors(flat[:, order], damped[np.ix_(order, order)], scale, levels)
    lost = (flat - values * scale[:, None]) @ inputs.mean
    return QuantizedWeight(
        values.reshape(weight.shape).astype(np.int8), scale, lost.astype(np.float32)
    )


def input_moments(
    model: ModelProto, nodes: Sequence[Any], batches: Sequence[Batch], report: Report = no_report
) -> dict[str, Moments]:
    """Return the moments of the inputs of each of `nodes` in the float `model`, by node name.

    Nodes are Conv without groups, Gemm and MatMul.
    """
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    session = open_with_outputs(model, names)
    entry = session.get_inputs()[0].name
    rng = np.random.default_rng(_SEED)
    sums: dict[str, Floats] = {}
    for number, batch in enumerate(batches):
        report("measuring correlations", number, len(batches))
        values = dict(zip(names, session.run(names, {entry: batch}), strict=True))
        for node in nodes:
            rows = _rows(node, values[node.input[0]], rng)
            with_one = np.concatenate((rows, np.ones((len(rows), 1), np.float32)), axis=1)
            product = with_one.T @ with_one
            if node.name in sums:
                sums[node.name] += product
            else:
                sums[node.name] = product.astype(np.float64)
    report("measuring correlations", len(batches), len(batches))
    return {name: _moments(total) for name, total in sums.items()}


def _moments(total: Floats) -> Moments:
    """Return the moments from the sum of (x, 1)^T (x, 1), whose last entry counts the samples."""
    second = total / total[-1, -1]
    mean = second[-1, :-1]
    return Moments(mean, second[:-1, :-1] - np.outer(mean, mean))


def _rows(
    node: Any, values: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return some of the input vectors that the node multiplies by its weights, one per row."""
    if node.op_type != "Conv":
        rows = values.reshape(-1, values.shape[-1])
        return rows[_places(len(rows), rng)]
    attributes = {a.name: list(a.ints) for a in node.attribute}
    top, left, bottom, right = attributes["pads"]
    down, across = attributes["strides"]
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = tuple(attributes["kernel_shape"])
    window_view: Any = np.lib.stride_tricks.sliding_window_view  # NumPy 2.2 has a wrong type
    windows = window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::across]
    shape = windows.shape[2:4]
    row, column = np.unravel_index(_places(shape[0] * shape[1], rng), shape)
    picked = windows[:, :, row, column].swapaxes(1, 2)
    vectors: npt.NDArray[np.float32] = picked.reshape(picked.shape[0] * picked.shape[1], -1)
    return vectors


def _places(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.arange(count) if count <= _SAMPLES else rng.choice(count, _SAMPLES, replace=False)


def _spread_errors(
    weight: Floats, covariance: Floats, scale: npt.NDArray[np.float32], levels: int
) -> Floats:
    """Return integers near weight / scale, each error spread over the weights to its right."""
    upper = np.linalg.cholesky(np.linalg.inv(covariance)).T
    weight = weight.copy()
    values = np.empty_like(weight)
    for i in range(weight.shape[1]):
        values[:, i] = np.clip(np.rint(weight[:, i] / scale), -levels, levels)
        error = (weight[:, i] - values[:, i] * scale) / upper[i, i]
        weight[:, i + 1 :] -= np.outer(error, upper[i, i + 1 :])
    return values


def _scales(weight: npt.NDArray[np.float32], levels: int) -> npt.NDArray[np.float32]:
    peaks = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale: npt.NDArray[np.float32] = (np.maximum(peaks, 1e-12) / levels).astype(np.float32)
    return scale


def correct_biases(model: ModelProto, batches: Sequence[Batch]) -> ModelProto:
    """Return a copy whose biases compensate for rounding the weights to the nearest.

    The mean error over `batches` becomes zero, except at the border of padded images.
    """
    onnx = require_onnx()
    result = clone(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes = [node for node in model.graph.node if _is_plain(node, tensors)]
    means = _channel_means(model, {node.input[0] for node in nodes}, batches)
    for node in nodes:
        weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in node.input[1:3])
        values, scale, _ = round_to_nearest(weight)
        error = (values * scale[:, None, None, None] - weight).sum(axis=(2, 3))
        mean = means[node.input[0]]
        shift = _mean_shift(error, mean)
        corrected = (bias - shift).astype(np.float32)
        tensors[node.input[2]].CopyFrom(onnx.numpy_helper.from_array(corrected, node.input[2]))
    return result


def _is_plain(node: Any, tensors: Mapping[str, Any]) -> bool:
    """Return whether a node is a two-dimensional convolution with constant weights and bias."""
    known = [tensors[name] for name in node.input[1:3] if name in tensors]
    return node.op_type == "Conv" and len(known) == 2 and len(known[0].dims) == 4


def _mean_shift(
    error: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return how weight errors (out, in per group) shift each output for a mean input (in,)."""
    groups = len(mean) // error.shape[1]
    if groups == 1:
        return np.asarray(error @ mean)
    grouped = error.reshape(groups, -1, error.shape[1]) * mean.reshape(groups, 1, -1)
    return np.asarray(grouped.sum(axis=2).ravel())


def _channel_means(
    model: ModelProto, names: Iterable[str], batches: Sequence[Batch]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean of each channel of the named tensors [N, C, H, W]."""
    ordered = sorted(names)
    session = open_with_outputs(model, ordered)
    entry = session.get_inputs()[0].name
    sums: dict[str, npt.NDArray[np.float64]] = {}
    images = sum(len(batch) for batch in batches)
    for batch in batches:
        for name, values in zip(ordered, session.run(ordered, {entry: batch}), strict=True):
            means = values.mean(axis=(2, 3), dtype=np.float64)
            sums[name] = sums.get(name, np.zeros(means.shape[1])) + means.sum(axis=0)
    return {name: total / images for name, total in sums.items()}
