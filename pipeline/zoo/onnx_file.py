"""ONNX model files with their spec inside: the only place that reads or writes them whole."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pipeline.errors import DependencyError, ModelError, OutputError
from pipeline.inference.external import refuse_outside_data
from pipeline.inference.registry import find_spec
from pipeline.inference.spec import METADATA_KEY, ModelSpec, decode_spec, encode_spec

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
"""What ONNX Runtime 1.17, the oldest one supported, reads without a question."""


def require_onnx() -> ModuleType:
    """The `onnx` package. Raises `DependencyError` where it is not installed."""
    try:
        import onnx  # noqa: PLC0415  (an extra, needed only to make models)
    except ImportError as error:
        raise DependencyError(
            "onnx: needed to make models, but not installed; pip install onnx"
        ) from error
    module: ModuleType = onnx
    return module


def save_model(model: onnx.ModelProto, spec: ModelSpec, path: str | Path) -> None:
    """Store `model` with `spec` as its metadata in the file `path`, whole or not at all.

    The same model and spec always give the same bytes. Raises `ModelError` where the graph is not
    valid ONNX and `OutputError` where the file cannot be written.
    """
    onnx = require_onnx()
    path = Path(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: encode_spec(spec)})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: the graph is not valid ONNX: {reason}") from error
    write_atomically(path, model.SerializeToString(deterministic=True))


def load_model(path: str | Path) -> tuple[onnx.ModelProto, ModelSpec]:
    """Read a model file and its spec, which lies inside it or in the registry.

    Raises `ModelError` where the file is missing, is no ONNX model or has no spec.
    """
    path = Path(path)
    model = load_graph(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata:
        return model, find_spec(path)
    return model, decode_spec(metadata[METADATA_KEY], str(path))


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a model file, with weights that lie in other files of its folder.

    Raises `ModelError` where the file is missing or is no ONNX model.
    """
    onnx = require_onnx()
    decode_error = import_module("google.protobuf.message").DecodeError  # comes with onnx
    refuse_outside_data(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (decode_error, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: not an ONNX model: {reason}") from error
    if not model.graph.node:
        raise ModelError(f"{path}: not an ONNX model: it has no nodes")
    return model


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` in the file `path`; nothing half-written is ever seen under that name.

    What is no ordinary file, such as a pipe, is written to as it is; behind a link it is the file
    that is replaced. Raises `OutputError` where it cannot be written.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
