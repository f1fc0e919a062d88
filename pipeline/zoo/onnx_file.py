"""Reading, writing and running of ONNX models, whose files also hold their spec."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import DependencyError, ModelError, one_line
from pipeline.files.writing import write_atomically
from pipeline.inference.external import read_model
from pipeline.inference.registry import find_spec
from pipeline.inference.spec import METADATA_KEY, ModelSpec, decode_spec, encode_spec
from pipeline.text.native import utf8

ModelProto = Any
"""An `onnx.ModelProto`; untyped, since onnx is an extra."""

OPSET = 17
IR_VERSION = 8
"""ONNX Runtime 1.17, the oldest supported version, reads both."""


def require_onnx() -> ModuleType:
    """Return the `onnx` package. Raises `DependencyError` if it is not installed."""
    try:
        import onnx  # noqa: PLC0415  (an extra, needed only to make models)
    except ImportError as error:
        raise DependencyError(
            "onnx: needed to make models, but not installed; pip install onnx"
        ) from error
    module: ModuleType = onnx
    return module


def save_model(model: ModelProto, spec: ModelSpec, path: str | Path) -> None:
    """Write `model` atomically to the file `path`, with `spec` as its metadata.

    The same model and spec always give the same bytes. Raises `ModelError` if the graph is not
    valid ONNX and `OutputError` if the file cannot be written.
    """
    onnx = require_onnx()
    path = Path(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: encode_spec(spec)})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: the graph is not valid ONNX: {one_line(error)}") from error
    write_atomically(path, model.SerializeToString(deterministic=True))


def load_model(path: str | Path) -> tuple[ModelProto, ModelSpec]:
    """Read a model file and its spec, from its metadata or from the registry.

    Raises `ModelError` if the file is missing, is not an ONNX model or has no spec.
    """
    path = Path(path)
    model = load_graph(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata:
        return model, find_spec(path)
    return model, decode_spec(metadata[METADATA_KEY], str(path))


def load_graph(path: Path) -> ModelProto:
    """Read a model file, including weights stored in other files of its folder.

    Raises `ModelError` if the file is missing or is not an ONNX model.
    """
    onnx = require_onnx()
    decode_error = import_module("google.protobuf.message").DecodeError  # comes with onnx
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_model(path))
        onnx.external_data_helper.load_external_data_for_model(model, utf8(path.parent, ModelError))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (decode_error, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: not an ONNX model: {one_line(error)}") from error
    if not model.graph.node:
        raise ModelError(f"{path}: not an ONNX model: it has no nodes")
    return model


def open_with_outputs(model: ModelProto, tensors: Iterable[str] = ()) -> Any:
    """Open a session on a copy of `model` whose outputs include the named float tensors."""
    import onnxruntime as ort  # noqa: PLC0415  (slow, and not needed to read and write files)

    onnx = require_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
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
