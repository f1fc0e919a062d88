"""Quantisation of untrained networks for their size and speed, with fixed ranges.

The graph is the one that `quantize_model` writes, with the same nodes on the same integer kernels,
whose time does not depend on the values. The outputs are meaningless, as without training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.zoo.graphs.edit import GraphBuilder
from pipeline.zoo.onnx_file import ModelProto
from pipeline.zoo.quantization.calibration import Range
from pipeline.zoo.quantization.qdq import QuantizationPlan, write_qdq
from pipeline.zoo.quantization.rounding import round_to_nearest

_NOT_NEGATIVE = ("Clip", "Relu", "HardSigmoid", "Softmax")
_KEEPING_SIGN = ("Transpose", "Reshape", "GlobalAveragePool", "MaxPool")
_POSITIVE = Range(0.0, 6.0)
_SIGNED = Range(-6.0, 6.0)


def quantize_untrained(model: ModelProto, keep_float: Collection[str]) -> ModelProto:
    """Return a QDQ copy of a float graph; nodes in `keep_float` stay in float."""
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
