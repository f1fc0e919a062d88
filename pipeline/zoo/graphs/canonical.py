"""Conversion of third-party float networks to the form that the quantiser reads.

The graph then takes uint8 BGR pixels in NHWC, with the scaling folded into its first convolution.
Constants are folded, batch norm is part of the convolutions, every layer has a bias and every node
a name. The outputs are equal except for rounding in the last digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pipeline.errors import ModelError, one_line
from pipeline.files.scratch import scratch_folder
from pipeline.inference.session import ORT_ERRORS
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.graphs.edit import GraphBuilder, clone, consumers_of
from pipeline.zoo.graphs.uint8_input import take_uint8_input
from pipeline.zoo.onnx_file import OPSET, ModelProto, require_onnx

Floats = npt.NDArray[np.float32]

_OLDEST_OPSET = 13  # the first with a scale for each channel
_INTEGER = ("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_KNOWN_PADDING = ("NOTSET", "VALID")


class CanonicalModel(NamedTuple):
    """A network in canonical form, and its nodes that cannot be quantised."""

    model: ModelProto
    spec: ModelSpec
    float_nodes: list[str]


def canonical_form(model: ModelProto, spec: ModelSpec) -> CanonicalModel:
    """Return a copy of the float network `model` that takes uint8 BGR pixels, with its new spec.

    Raises `ModelError` if the network is quantised already, or uses what ONNX Runtime or the onnx
    package cannot convert.
    """
    if any(node.op_type in _INTEGER or "QLinear" in node.op_type for node in model.graph.node):
        raise ModelError(
            f"{spec.name}: is an int8 model already; expected the float model it was made from"
        )
    onnx = require_onnx()
    _check_precision(onnx, model, spec.name)
    is_ours = spec.input.dtype == "uint8"
    copy = clone(model)
    if not is_ours:
        spec = _without_softmax(onnx, copy, spec)
        copy = _folded(onnx, _with_opset(onnx, copy, spec.name), spec)
    builder = GraphBuilder(copy)
    _check_weights(builder, spec.name)
    _LayerWriter(onnx, copy, builder).write(copy.graph.node)
    entry = InputSpec(
        name=spec.input.name, width=spec.input.width, height=spec.input.height, fit=spec.input.fit
    )
    if not is_ours:
        take_uint8_input(builder, spec.input)
        _set_input(onnx, copy.graph, entry)
    builder.store(copy)
    return CanonicalModel(copy, msgspec.structs.replace(spec, input=entry), _unfit(onnx, copy))


def _check_precision(onnx: Any, model: ModelProto, name: str) -> None:
    kinds = onnx.TensorProto
    unfit = (kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
    for tensor in model.graph.initializer:
        if tensor.data_type in unfit:
            found = kinds.DataType.Name(tensor.data_type).lower()
            raise ModelError(
                f"{name}: expected a network in float32, but '{tensor.name}' is {found}; export "
                "the model in float32"
            )


def _without_softmax(onnx: Any, model: ModelProto, spec: ModelSpec) -> ModelSpec:
    """Remove a softmax from the end of the classifier `model`; returns the spec of the new output.

    The classifier that runs the model computes scores from logits itself.
    """
    nodes = {name: node for node in model.graph.node for name in node.output}
    last = nodes.get(spec.logits or "")
    if last is None or last.op_type != "Softmax":
        return spec
    value = onnx.helper.make_tensor_value_info
    logits = value(last.input[0], onnx.TensorProto.FLOAT, ["N", len(spec.labels)])
    model.graph.node.remove(last)
    del model.graph.output[:]
    model.graph.output.append(logits)
    return msgspec.structs.replace(spec, logits=logits.name)


def _check_weights(builder: GraphBuilder, name: str) -> None:
    """Raise `ModelError` if weights are NaN or infinite: calibration is impossible with them."""
    for tensor, array in builder.arrays.items():
        is_weight = array.ndim > 1 and np.issubdtype(array.dtype, np.floating)
        if is_weight and not np.isfinite(array).all():
            raise ModelError(f"{name}: expected finite weights, but '{tensor}' has NaN or infinity")


def _with_opset(onnx: Any, model: ModelProto, name: str) -> ModelProto:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= _OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except RuntimeError as error:  # the only exception that the converter raises
        raise ModelError(
            f"{name}: opset {version} cannot be converted to {OPSET}: {one_line(error)}; export "
            f"the model with opset {OPSET}"
        ) from error


def _folded(onnx: Any, model: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the graph as ONNX Runtime simplifies it: constants and batch norm folded."""
    wanted = set(spec.shapes)
    kept = [clone(value) for value in model.graph.output if value.name in wanted]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with scratch_folder() as folder:
        path = folder / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ORT_ERRORS as error:
            raise ModelError(f"{spec.name}: not a usable ONNX model: {one_line(error)}") from error
        folded = onnx.load(path)
    used = {node.domain for node in folded.graph.node} | {""}
    versions = [(o.domain, o.version) for o in folded.opset_import if o.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(onnx.helper.make_opsetid(*version) for version in versions)
    return folded


def _set_input(onnx: Any, graph: Any, entry: InputSpec) -> None:
    """Make uint8 pixels the only input; the batch size stays as it was."""
    dims = graph.input[0].type.tensor_type.shape.dim  # empty if the shape is unknown
    batch = dims[0].dim_value or dims[0].dim_param if dims else ""
    value = onnx.helper.make_tensor_value_info
    shape = [batch or "N", entry.height, entry.width, 3]
    del graph.input[:]
    graph.input.append(value(entry.name, onnx.TensorProto.UINT8, shape))


class _LayerWriter:
    """Writes the layers of a graph in canonical form."""

    def __init__(self, onnx: Any, model: ModelProto, builder: GraphBuilder) -> None:
        self._builder = builder
        self._arrays = builder.arrays
        self._ranks = _ranks(onnx, model)
        self._consumers = consumers_of(model.graph.node)
        self._done: set[str] = set()

    def write(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            if node.op_type == "Conv":
                self._write_convolution(node)
            elif node.op_type == "Gemm":
                self._write_gemm(node)
            elif node.op_type == "MatMul":
                self._write_product(node)
            elif node.output[0] not in self._done:
                self._builder.nodes.append(node)

    def _write_convolution(self, node: Any) -> None:
        """Write a convolution with a bias and all its settings."""
        weight = self._arrays.get(node.input[1])
        settings = _convolution_settings(node, weight)
        if weight is None or settings is None:
            self._builder.nodes.append(node)
            return
        inputs = [node.input[0], node.input[1], self._bias(node, len(weight))]
        self._builder.add("Conv", inputs, node.output[0], node.name, **settings)

    def _write_gemm(self, node: Any) -> None:
        """Write a Gemm with a weight (out, in), without transposed input or factors."""
        settings = {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}
        weight = self._arrays.get(node.input[1])
        is_plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0
        if weight is None or not is_plain or settings.get("transA"):
            self._builder.nodes.append(node)
            return
        weight = weight if settings.get("transB") else weight.T
        bias = self._bias(node, len(weight))
        self._arrays[bias] = np.broadcast_to(self._arrays[bias].ravel(), (len(weight),)).copy()
        self._add_gemm(node.input[0], weight, bias, node.output[0], node.name)

    def _write_product(self, node: Any) -> None:
        """Write a matrix product of rank 2 and the sum after it as one Gemm."""
        followers = self._consumers.get(node.output[0], [])
        weight = self._arrays.get(node.input[1])
        is_flat = self._ranks.get(node.input[0]) == 2
        if weight is None or weight.ndim != 2 or not is_flat or len(followers) != 1:
            self._builder.nodes.append(node)
            return
        addition = followers[0]
        others = [name for name in addition.input if name != node.output[0]]
        bias = self._arrays.get(others[0]) if addition.op_type == "Add" and others else None
        if bias is None or bias.size != weight.shape[1]:
            self._builder.nodes.append(node)
            return
        name = self._builder.constant(f"{addition.output[0]}.bias", bias.ravel())
        self._add_gemm(node.input[0], weight.T, name, addition.output[0], addition.name)
        self._done.add(addition.output[0])

    def _add_gemm(self, entry: str, weight: Floats, bias: str, output: str, name: str) -> None:
        stored = self._builder.constant(f"{output}.weight", np.ascontiguousarray(weight))
        self._builder.add("Gemm", [entry, stored, bias], output, name, transB=1)

    def _bias(self, node: Any, size: int) -> str:
        """Return a bias that no other layer shares: rounding errors are added to it later."""
        shared = self._arrays.get(node.input[2]) if len(node.input) > 2 else None
        bias = np.zeros(size, np.float32) if shared is None else shared
        return self._builder.constant(f"{node.output[0]}.bias", bias)


def _convolution_settings(node: Any, weight: Floats | None) -> dict[str, Any] | None:
    """Return all settings of a two-dimensional convolution, or None if they are not supported."""
    given = {a.name: a for a in node.attribute}
    padding = given["auto_pad"].s.decode() if "auto_pad" in given else "NOTSET"
    dilations = list(given["dilations"].ints) if "dilations" in given else [1, 1]
    if weight is None or weight.ndim != 4 or dilations != [1, 1] or padding not in _KNOWN_PADDING:
        return None
    return {
        "kernel_shape": list(weight.shape[2:]),
        "strides": list(given["strides"].ints) if "strides" in given else [1, 1],
        "pads": list(given["pads"].ints) if "pads" in given else [0] * 4,
        "group": given["group"].i if "group" in given else 1,
    }


def _ranks(onnx: Any, model: ModelProto) -> dict[str, int]:
    """Return the ranks of the tensors whose shape is known."""
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in _values(onnx, model)
        if value.type.tensor_type.HasField("shape")
    }


def _values(onnx: Any, model: ModelProto) -> list[Any]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return [*graph.input, *graph.value_info, *graph.output]


def _unfit(onnx: Any, model: ModelProto) -> list[str]:
    """Return the nodes that do not combine float tensors with constants as the quantiser needs."""
    float_type = onnx.TensorProto.FLOAT
    values = _values(onnx, model)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == float_type}
    constants = {tensor.name for tensor in model.graph.initializer}
    consumers = consumers_of(model.graph.node)
    unfit = []
    for node in model.graph.node:
        is_float = node.output[0] in floats and (node.input[0] in floats or not node.input[0])
        followers = consumers.get(node.output[0], [])
        if node.op_type == "MatMul":
            is_fit = (
                node.input[1] in constants
                and len(followers) == 1
                and followers[0].op_type == "Add"
                and followers[0].input[1] in constants
            )
        elif node.op_type in ("Conv", "Gemm"):
            is_fit = len(node.input) == 3 and set(node.input[1:]) <= constants
        else:
            is_fit = not any(name in constants for name in node.input[:1])
        if not is_float or not is_fit:
            unfit.append(node.name)
    return unfit
