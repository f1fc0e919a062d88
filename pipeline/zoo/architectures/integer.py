"""An untrained network as int8, for its size and its speed: ranges are set, not calibrated.

The graph is the one that `quantize_model` writes: the same nodes on the same integer kernels, which
take as long for any numbers. What it answers means nothing, but nor does an untrained network's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.zoo.calibration import Range
from pipeline.zoo.onnx_file import require_onnx
from pipeline.zoo.qdq import QuantizationPlan, write_qdq
from pipeline.zoo.rounding import round_to_nearest

if TYPE_CHECKING:
    import onnx

_NOT_NEGATIVE = ("Clip", "Relu", "HardSigmoid", "Softmax")
_POSITIVE = Range(0.0, 6.0)
_SIGNED = Range(-6.0, 6.0)


def quantize_untrained(model: onnx.ModelProto, keep_float: Collection[str]) -> onnx.ModelProto:
    """A QDQ copy of a float graph of ours; nodes named in `keep_float` stay in float."""
    onnx = require_onnx()
    plan = QuantizationPlan(model, keep_float)
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    ranges = plan.share(
        {name: _POSITIVE if makers.get(name) in _NOT_NEGATIVE else _SIGNED for name in plan.tensors}
    )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {}
    for node in plan.weighted:
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        weights[node.name] = round_to_nearest(weight.T if node.op_type == "MatMul" else weight)
    return write_qdq(model, plan, ranges, weights)
