"""Static int8 quantisation of a float network, calibrated on real pictures.

Activations become uint8 with one scale a tensor, weights int8 with one scale an output channel,
which is what x86 with VNNI multiplies fastest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.zoo.onnx_file import require_onnx
from pipeline.zoo.quantization.calibration import (
    Batch,
    Method,
    Range,
    Report,
    choose_range,
    collect,
)
from pipeline.zoo.quantization.qdq import QuantizationPlan, write_qdq
from pipeline.zoo.quantization.rounding import (
    PIXEL_WEIGHT_LEVELS,
    WEIGHT_LEVELS,
    QuantizedWeight,
    input_moments,
    round_jointly,
    round_to_nearest,
)

if TYPE_CHECKING:
    import onnx


def quantize_model(
    model: onnx.ModelProto,
    batches: Sequence[Batch],
    *,
    keep_float: Collection[str] = (),
    method: Method = "mse",
    percentile: float = 99.999,
    ranges: Mapping[str, Range] | None = None,
    jointly: bool = True,
) -> onnx.ModelProto:
    """A QDQ copy of the float `model`, calibrated on `batches` of its uint8 input.

    Nodes named in `keep_float` stay in float. `ranges` replaces the calibrated range of tensors.
    With `jointly`, the weights of a channel are rounded with regard to one another and to the
    pictures, and those for pixels so that no CPU clips their products; without, to the nearest.
    Metadata is carried over. The same input gives the same model.

    Raises `InputError` where there is no batch and `DependencyError` without the onnx package.
    """
    calibrated = calibrate(
        model, batches, keep_float=keep_float, method=method, percentile=percentile, jointly=jointly
    )
    return calibrated.quantize(ranges=ranges)


@dataclass(frozen=True)
class Calibrated:
    """A float network with everything that its int8 forms are made of."""

    model: onnx.ModelProto
    keep_float: tuple[str, ...]
    ranges: Mapping[str, Range]
    weights: Mapping[str, QuantizedWeight]

    @property
    def layers(self) -> dict[str, list[str]]:
        """The layers that may be left in float, in order: the nodes of each, by its first one."""
        return QuantizationPlan(self.model, self.keep_float).layers

    def quantize(
        self, keep_float: Collection[str] = (), *, ranges: Mapping[str, Range] | None = None
    ) -> onnx.ModelProto:
        """A QDQ copy; further nodes may stay in float where all were calibrated for that."""
        plan = QuantizationPlan(self.model, {*self.keep_float, *keep_float})
        known = {**self.ranges, **(ranges or {})}
        shared = plan.share({name: known[name] for name in plan.tensors})
        return write_qdq(self.model, plan, shared, self.weights)


def calibrate(
    model: onnx.ModelProto,
    batches: Sequence[Batch],
    *,
    keep_float: Collection[str] = (),
    method: Method = "mse",
    percentile: float = 99.999,
    jointly: bool = True,
    for_any: bool = False,
    report: Report | None = None,
) -> Calibrated:
    """See what values the network's tensors take on `batches`, and round its weights.

    As `quantize_model`; with `for_any`, further nodes may be left in float later.
    """
    plan = QuantizationPlan(model, keep_float)
    tensors = [*plan.tensors, *(plan.clipped if for_any else ())]
    chosen = {
        name: choose_range(
            histogram,
            method,
            percentile=percentile,
            negative_weight=plan.slope_after(name) ** 2,
        )
        for name, histogram in collect(model, batches, tensors, report).items()
    }
    weights = _round_weights(model, plan, batches if jointly else (), report)
    return Calibrated(model, tuple(keep_float), chosen, weights)


def _round_weights(
    model: onnx.ModelProto,
    plan: QuantizationPlan,
    batches: Sequence[Batch],
    report: Report | None,
) -> dict[str, QuantizedWeight]:
    """Integers of every planned node's weights, by node name; to the nearest without `batches`.

    Convolutions of groups see few inputs each, which say little about one another: their weights
    are always rounded to the nearest.
    """
    onnx = require_onnx()
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dense = [node for node in plan.weighted if not (is_grouped(node) or _is_dilated(node))]
    moments = input_moments(model, dense, batches, report) if batches else {}
    rounded = {}
    for number, node in enumerate(plan.weighted):
        if report is not None:
            report("rounding weights", number, len(plan.weighted))
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        weight = weight.T if node.op_type == "MatMul" else weight
        if node.name in moments:
            levels = PIXEL_WEIGHT_LEVELS if node.input[0] in plan.pixels else WEIGHT_LEVELS
            rounded[node.name] = round_jointly(weight, moments.pop(node.name), levels)
        else:
            rounded[node.name] = round_to_nearest(weight)
    if report is not None:
        report("rounding weights", len(plan.weighted), len(plan.weighted))
    return rounded


def is_grouped(node: Any) -> bool:
    """Whether a convolution's outputs see some of its inputs only."""
    return any(a.name == "group" and a.i > 1 for a in node.attribute)


def _is_dilated(node: Any) -> bool:
    """Whether a convolution skips pixels: its inputs are not looked at then."""
    return any(a.name == "dilations" and max(a.ints) > 1 for a in node.attribute)
