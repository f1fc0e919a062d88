"""An untrained network as int8, for its size and its speed: ranges are set, not calibrated.

The graph is the one that `quantize_model` writes: the same nodes on the same integer kernels, which
take as long for any numbers. What it answers means nothing, but nor does an untrained network's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.zoo.onnx_file import require_onnx
from pipeline.zoo.quantization.calibration import Range
from pipeline.zoo.quantization.qdq import QuantizationPlan, write_qdq
from pipeline.zoo.quantization.rounding import round_to_nearest

if TYPE_CHECKING:
    import onnx

_NOT_NEGATIVE = ("Clip", "Relu", "HardSigmoid", "Softmax")
_KEEPING_SIGN = ("Transpose", "Reshape", "GlobalAveragePool", "MaxPool")
_POSITIVE = Range(0.0, 6.0)
_SIGNED = Range(-6.0, 6.0)


def quantize_untrained(model: onnx.ModelProto, keep_float: Collection[str]) -> onnx.ModelProto:
    """A QDQ copy of a float graph of ours; nodes named in `keep_float` stay in float."""
    onnx = require_onnx()
    plan = QuantizationPlan(model, keep_float)
    makers = {node.output[0]: node for node in model.graph.node}
    ranges = plan.share({name: _range(name, makers) for name in plan.tensors})
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {}
    for node in plan.weighted:
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        weights[node.name] = round_to_nearest(weight.T if node.op_type == "MatMul" else weight)
    return write_qdq(model, plan, ranges, weights)


def _range(tensor: str, makers: Mapping[str, Any]) -> Range:
    """What calibration would tell of the sign, which decides what ONNX Runtime fuses."""
    maker = makers.get(tensor)
    while maker is not None and maker.op_type in _KEEPING_SIGN:
        maker = makers.get(maker.input[0])
    is_positive = maker is not None and maker.op_type in _NOT_NEGATIVE
    return _POSITIVE if is_positive else _SIGNED
