"""ONNX Runtime sessions that also return intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterable

import onnxruntime as ort

from pipeline.zoo.graphs.edit import clone
from pipeline.zoo.onnx_file import ModelProto, require_onnx


def open_with_outputs(model: ModelProto, tensors: Iterable[str] = ()) -> ort.InferenceSession:
    """Open a session on a copy of `model` whose outputs include the named float tensors."""
    onnx = require_onnx()
    copy = clone(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
