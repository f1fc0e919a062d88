"""Float models to compare with: for uint8 pixels, and the same weights for a float blob."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.inference.registry import find_model
from pipeline.zoo.onnx_file import load_model, save_model
from recipes import classifier as classifier_recipe
from recipes import detector as detector_recipe
from recipes.mobilenet_v2 import build_mobilenet

logger = logging.getLogger(__name__)

BLOB = "blob"


@dataclass(frozen=True)
class FloatModels:
    """`detector` and `classifier` take uint8 pixels, the `blob_` ones a normalised NCHW blob."""

    detector: Path
    classifier: Path
    blob_detector: Path
    blob_classifier: Path


def float_models(folder: Path) -> FloatModels:
    """Write all four to `folder`; the weights are fetched once and cached.

    Raises `RunError` if they cannot be downloaded.
    """
    detector = detector_recipe.build_float(None, logger.info).path
    classifier = folder / "mobilenetv2.onnx"
    _write_float_classifier(classifier)
    blob_detector, blob_classifier = folder / "detector.onnx", folder / "classifier.onnx"
    _write_blob_detector(detector, blob_detector)
    _write_blob_classifier(classifier, blob_classifier)
    return FloatModels(detector, classifier, blob_detector, blob_classifier)


def _write_float_classifier(target: Path) -> None:
    """Write the float backbone with the dequantised head of the int8 model."""
    int8, spec = load_model(find_model(classifier_recipe.NAME))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    weight = stored["head.weight.q"].astype(np.float32) * stored["head.weight.scale"]
    blocks = classifier_recipe.fetch_blocks(None)
    network = build_mobilenet(blocks, (np.ascontiguousarray(weight.T), stored["head.bias"]))
    save_model(network, spec, target)


def _write_blob_detector(model: Path, target: Path) -> None:
    """Undo the folding in the first convolution: BGR in [0, 255] becomes RGB in [0, 1]."""
    graph = load_model(model)[0].graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weight, bias = stored[first.input[1]][:, ::-1] * 255, stored[first.input[2]]
    _write_with_plain_stem(model, target, weight, bias, [_stem_node(first.output[0])])


def _write_blob_classifier(model: Path, target: Path) -> None:
    """Restore the first convolution of the backbone and its ReLU6."""
    stem = classifier_recipe.fetch_blocks(None)[0].convolutions[0]
    clip = helper.make_node("Clip", ["stem.plain", "stem.zero", "stem.six"], ["stem.output"])
    nodes = [_stem_node("stem.plain"), clip]
    bounds = {"stem.zero": np.float32(0), "stem.six": np.float32(6)}
    _write_with_plain_stem(model, target, stem.weight, stem.bias, nodes, bounds)


def _stem_node(output: str) -> onnx.NodeProto:
    """Return a 3x3 convolution with stride 2, the first layer of both networks."""
    inputs = [BLOB, "blob.weight", "blob.bias"]
    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    return helper.make_node("Conv", inputs, [output], **shape)


def _write_with_plain_stem(
    model: Path,
    target: Path,
    weight: np.ndarray,
    bias: np.ndarray,
    stem: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
) -> None:
    """Replace the nodes up to the last output of `stem` by `stem`, which reads a blob."""
    graph_model, spec = load_model(model)
    graph = graph_model.graph
    outputs = [node.output[0] for node in graph.node]
    later = list(graph.node)[outputs.index(stem[-1].output[0]) + 1 :]
    del graph.node[:]
    graph.node.extend([*stem, *later])
    arrays = {"blob.weight": weight, "blob.bias": bias, **(constants or {})}
    for name, array in arrays.items():
        graph.initializer.append(
            numpy_helper.from_array(np.array(array, np.float32, order="C"), name)
        )
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    shape = ["N", 3, spec.input.height, spec.input.width]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(BLOB, TensorProto.FLOAT, shape))
    onnx.checker.check_model(graph_model)
    onnx.save(graph_model, target)
