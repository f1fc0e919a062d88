"""The fp32 models to compare with: ours, and the same weights behind the usual float blob."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.tutorial import STD
from pipeline.inference.locate import find_model
from pipeline.zoo.onnx_file import load_model

BLOB = "pixels_float"  # what our graphs call their pixels once they are float and channels first


@dataclass(frozen=True)
class FloatModels:
    """`detector` and `classifier` take uint8 pixels, the `blob_` ones a normalised NCHW blob."""

    detector: Path
    classifier: Path
    blob_detector: Path
    blob_classifier: Path


def float_models(folder: Path) -> FloatModels:
    """Find ours (`make models` leaves them in the user's cache) and write the others to `folder`.

    Raises `ModelError` where ours have not been made.
    """
    detector, classifier = find_model("yolov4-tiny"), find_model("mobilenetv2")
    blob_detector, blob_classifier = folder / "detector.onnx", folder / "classifier.onnx"
    _write_with_blob_input(detector, blob_detector, np.float32(1))
    _write_with_blob_input(classifier, blob_classifier, STD[None])
    return FloatModels(detector, classifier, blob_detector, blob_classifier)


def _write_with_blob_input(model: Path, target: Path, std: np.ndarray) -> None:
    """Take the pixel layers off and undo in the first convolution what they had folded into it.

    Its weights are for BGR in [0, 255]; afterwards for RGB that is scaled to [0, 1] and, where the
    network was trained so, freed of its mean and divided by `std`.
    """
    graph_model, spec = load_model(model)
    graph = graph_model.graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    for node in [node for node in graph.node if node.output[0] == BLOB or _is_before(node, graph)]:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    weight = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
    for_bgr = numpy_helper.to_array(weight)[:, :3]
    for_blob = np.ascontiguousarray(for_bgr[:, ::-1] * 255 * std, np.float32)
    weight.CopyFrom(numpy_helper.from_array(for_blob, weight.name))
    shape = ["N", 3, spec.input.height, spec.input.width]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(BLOB, TensorProto.FLOAT, shape))
    onnx.checker.check_model(graph_model)
    onnx.save(graph_model, target)


def _is_before(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a node works on the pixels while they are still uint8."""
    return node.op_type in ("Transpose", "Pad") and any(
        other.output[0] == BLOB for other in graph.node
    )
