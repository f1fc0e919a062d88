"""Static int8 quantisation of a float network, calibrated on images, and its layers in float.

Activations become uint8 with one scale per tensor, weights int8 with one scale per output channel:
the fastest combination on x86 with VNNI. ONNX Runtime's own quantiser cannot use uint8 pixels as
they are, round weights jointly, or calibrate once for many choices of float layers. The layers to
keep in float are named by the user, or found by measurement.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.zoo import Report, no_report
from pipeline.zoo.graphs.edit import GraphBuilder
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs
from pipeline.zoo.quantization.calibration import Batch, Method, Range, choose_range, collect
from pipeline.zoo.quantization.qdq import QuantizationPlan, write_qdq
from pipeline.zoo.quantization.rounding import (
    PIXEL_WEIGHT_LEVELS,
    WEIGHT_LEVELS,
    QuantizedWeight,
    input_moments,
    round_jointly,
    round_to_nearest,
)

_NOT_NEGATIVE = ("Clip", "Relu", "HardSigmoid", "Softmax")
_KEEPING_SIGN = ("Transpose", "Reshape", "GlobalAveragePool", "MaxPool")
_POSITIVE, _SIGNED = Range(0.0, 6.0), Range(-6.0, 6.0)


def quantize_model(
    model: ModelProto,
    batches: Sequence[Batch],
    *,
    keep_float: Collection[str] = (),
    method: Method = "mse",
    jointly: bool = True,
) -> ModelProto:
    """Return a QDQ copy of the float `model` with its metadata; arguments as in `calibrate`.

    The same input gives the same model. Raises `InputError` if there is no batch and
    `DependencyError` if onnx is not installed.
    """
    return calibrate(
        model, batches, keep_float=keep_float, method=method, jointly=jointly
    ).quantize()


@dataclass(frozen=True)
class Calibrated:
    """A float network with the ranges and rounded weights of its int8 forms."""

    model: ModelProto
    keep_float: tuple[str, ...]
    ranges: Mapping[str, Range]
    weights: Mapping[str, QuantizedWeight]

    @property
    def layers(self) -> dict[str, list[str]]:
        """The layers that may stay in float, in order: their nodes by the name of the first."""
        return QuantizationPlan(self.model, self.keep_float).layers

    def quantize(self, keep_float: Collection[str] = ()) -> ModelProto:
        """Return a QDQ copy; further nodes may stay in float if calibrated with `for_any`."""
        plan = QuantizationPlan(self.model, {*self.keep_float, *keep_float})
        shared = plan.share({name: self.ranges[name] for name in plan.tensors})
        return write_qdq(self.model, plan, shared, self.weights)


def calibrate(
    model: ModelProto,
    batches: Sequence[Batch],
    *,
    keep_float: Collection[str] = (),
    method: Method = "mse",
    jointly: bool = True,
    for_any: bool = False,
    report: Report = no_report,
) -> Calibrated:
    """Choose the ranges of the network's tensors on `batches` of its input, and round its weights.

    Nodes in `keep_float` stay in float; with `for_any`, further ones may stay in float later. With
    `jointly`, the weights of a channel are rounded jointly for the images, and weights of pixels so
    that no CPU saturates their products; without, to the nearest.
    """
    plan = QuantizationPlan(model, keep_float)
    tensors = [*plan.tensors, *(plan.clipped if for_any else ())]
    chosen = {
        name: choose_range(histogram, method, negative_weight=plan.slope_after(name) ** 2)
        for name, histogram in collect(model, batches, tensors, report).items()
    }
    weights = _round_weights(model, plan, batches if jointly else (), report)
    return Calibrated(model, tuple(keep_float), chosen, weights)


def _round_weights(
    model: ModelProto, plan: QuantizationPlan, batches: Sequence[Batch], report: Report
) -> dict[str, QuantizedWeight]:
    """Return the rounded weights of every planned node, by node name.

    Without `batches`, weights are rounded to the nearest. So are those of grouped convolutions,
    whose few inputs are hardly correlated.
    """
    arrays = GraphBuilder(model).arrays
    dense = [node for node in plan.weighted if not (is_grouped(node) or _is_dilated(node))]
    moments = input_moments(model, dense, batches, report) if batches else {}
    rounded = {}
    for number, node in enumerate(plan.weighted):
        report("rounding weights", number, len(plan.weighted))
        weight = plan.weight_of(node, arrays)
        if node.name in moments:
            levels = PIXEL_WEIGHT_LEVELS if node.input[0] in plan.pixels else WEIGHT_LEVELS
            rounded[node.name] = round_jointly(weight, moments.pop(node.name), levels)
        else:
            rounded[node.name] = round_to_nearest(weight)
    report("rounding weights", len(plan.weighted), len(plan.weighted))
    return rounded


def is_grouped(node: Any) -> bool:
    """Return whether a convolution has groups."""
    return any(a.name == "group" and a.i > 1 for a in node.attribute)


def _is_dilated(node: Any) -> bool:
    """Return whether a convolution is dilated: its inputs are not sampled then."""
    return any(a.name == "dilations" and max(a.ints) > 1 for a in node.attribute)


def quantize_untrained(model: ModelProto, keep_float: Collection[str]) -> ModelProto:
    """Return a QDQ copy of an untrained network, for its size and speed, with fixed ranges.

    Nodes and kernels are those of `quantize_model`, whose time does not depend on the values.
    """
    plan = QuantizationPlan(model, keep_float)
    makers = {node.output[0]: node for node in model.graph.node}
    ranges = plan.share({name: _range(name, makers) for name in plan.tensors})
    arrays = GraphBuilder(model).arrays
    weights = {node.name: round_to_nearest(plan.weight_of(node, arrays)) for node in plan.weighted}
    return write_qdq(model, plan, ranges, weights)


def _range(tensor: str, makers: Mapping[str, Any]) -> Range:
    """Return a range with the sign that calibration finds; it decides what ONNX Runtime fuses."""
    maker = makers.get(tensor)
    while maker is not None and maker.op_type in _KEEPING_SIGN:
        maker = makers.get(maker.input[0])
    is_positive = maker is not None and maker.op_type in _NOT_NEGATIVE
    return _POSITIVE if is_positive else _SIGNED


_IMAGES = 8
"""Images to rank the layers with; the choice is then measured on all images."""

Answers = list[npt.NDArray[np.float32]]


def named_layers(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the layers that match `names` or patterns such as `head*`.

    Raises `ConfigError` if one of them matches no layer.
    """
    layers, found = list(layers), []
    for name in names:
        matching = fnmatch.filter(layers, name)
        if not matching:
            near = difflib.get_close_matches(name, layers, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"layers: {_some(layers)}"
            raise ConfigError(f"--keep-float {name}: the network has no such layer; {hint}")
        found += matching
    return list(dict.fromkeys(found))


def rank_layers(calibrated: Calibrated, batches: Sequence[Batch], report: Report) -> list[str]:
    """Return the layers ranked by the error of the outputs if only they are int8, over their work.

    The first layer costs the most accuracy for the least time. Layers are tried one by one, since
    that finds both the writer and the reader of a tensor that int8 damages: to keep only one of
    them in float has no effect, as the other one still rounds the tensor.
    """
    few = [batches[index * len(batches) // _IMAGES][:1] for index in range(_IMAGES)]
    few = few if len(batches) >= _IMAGES else [batch[:1] for batch in batches]
    expected = _answers(calibrated.model, few)
    errors = {}
    layers = calibrated.layers
    for number, layer in enumerate(layers, start=1):
        others = [node for name, nodes in layers.items() if name != layer for node in nodes]
        errors[layer] = _error(_answers(calibrated.quantize(others), few), expected)
        report("trying layers", number, len(layers))
    work = _work(calibrated, few[0])
    return sorted(errors, key=lambda layer: errors[layer] / work[layer], reverse=True)


def fewest_in_float(
    ranked: Sequence[str], loss_with: Callable[[Sequence[str]], float], max_loss: float
) -> list[str]:
    """Return the shortest prefix of `ranked` that loses at most `max_loss` points, or all of it.

    The length is doubled until it suffices and then found by bisection. The loss rarely grows with
    more layers in float; if it does, the result still keeps the limit.
    """
    enough, short = 0, -1
    while loss_with(ranked[:enough]) > max_loss:
        if enough == len(ranked):
            return list(ranked)
        short, enough = enough, min(max(1, 2 * enough), len(ranked))
    while enough - short > 1:
        middle = (short + enough) // 2
        if loss_with(ranked[:middle]) > max_loss:
            short = middle
        else:
            enough = middle
    return list(ranked[:enough])


def _work(calibrated: Calibrated, batch: Batch) -> dict[str, float]:
    """Return the multiply-adds of each layer for one image, or its outputs if it has no weights."""
    nodes = {node.name: node for node in calibrated.model.graph.node}
    sizes = {tensor.name: list(tensor.dims) for tensor in calibrated.model.graph.initializer}
    layers = list(calibrated.layers)
    outputs = [nodes[layer].output[0] for layer in layers]
    session = open_with_outputs(calibrated.model, outputs)
    answers = session.run(outputs, {session.get_inputs()[0].name: batch})
    work = {}
    for layer, answer in zip(layers, answers, strict=True):
        node = nodes[layer]
        weight = sizes.get(node.input[1], []) if len(node.input) > 1 else []
        taps = weight[0] if node.op_type == "MatMul" else math.prod(weight[1:])
        work[layer] = float(answer.size * taps)
    return work


def _answers(model: ModelProto, batches: Sequence[Batch]) -> Answers:
    session = open_with_outputs(model)
    entry = session.get_inputs()[0].name
    return [value for batch in batches for value in session.run(None, {entry: batch})]


def _error(found: Answers, expected: Answers) -> float:
    """Return the mean squared error, each output relative to its variance."""
    shares = [
        float(np.mean((a - b) ** 2) / max(float(np.var(b)), 1e-12))
        for a, b in zip(found, expected, strict=True)
    ]
    return float(np.mean(shares))


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
