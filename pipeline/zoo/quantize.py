"""Static int8 quantisation of a float network, calibrated on real pictures.

Activations become uint8 with one scale a tensor, weights int8 with one scale an output channel,
which is what x86 with VNNI multiplies fastest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.zoo.calibration import Batch, Method, Range, choose_range, collect
from pipeline.zoo.qdq import QuantizationPlan, write_qdq

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
) -> onnx.ModelProto:
    """A QDQ copy of the float `model`, calibrated on `batches` of its uint8 input.

    Nodes named in `keep_float` stay in float. `ranges` replaces the calibrated range of tensors.
    Metadata is carried over. The same input gives the same model.

    Raises `InputError` where there is no batch and `DependencyError` without the onnx package.
    """
    plan = QuantizationPlan(model, keep_float)
    histograms = collect(model, batches, plan.tensors)
    chosen = {
        name: choose_range(
            histogram,
            method,
            percentile=percentile,
            negative_weight=plan.slope_after(name) ** 2,
        )
        for name, histogram in histograms.items()
    }
    return write_qdq(model, plan, plan.share({**chosen, **(ranges or {})}))
