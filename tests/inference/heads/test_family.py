"""What a detector family consists of, shown by a small one: boxes that the graph has decoded."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.inference import nms
from pipeline.inference.detector import Detector
from pipeline.inference.heads import Head
from pipeline.inference.heads.family import Family
from pipeline.inference.kernels.kernel import kernel
from pipeline.inference.nms import Decoded
from pipeline.inference.spec import InputSpec, ModelSpec, decode_spec, encode_spec

ROWS = np.array(
    [[8, 8, 4, 4, 0.9, 0.1], [8, 8, 4, 4, 0.8, 0.1], [20, 8, 6, 2, 0.1, 0.7]], np.float32
)


@kernel
def decode_centres(rows, mapping, score, overlap, by_distance, multi_label, most):
    boxes, scores, class_ids, count = nms.no_candidates()
    for row in rows:
        class_id = row[4:].argmax()
        x, y, half_width, half_height = row[0], row[1], row[2] / 2, row[3] / 2
        box = (
            (x - half_width) * mapping.scale_x + mapping.offset_x,
            (y - half_height) * mapping.scale_y + mapping.offset_y,
            (x + half_width) * mapping.scale_x + mapping.offset_x,
            (y + half_height) * mapping.scale_y + mapping.offset_y,
        )
        boxes, scores, class_ids, count = nms.append(
            boxes, scores, class_ids, count, box, row[4 + class_id], class_id, score
        )
    return nms.suppress(boxes, scores[:count], class_ids, mapping, overlap, by_distance, most)


class CentreHead(Family, frozen=True, kw_only=True, tag="centres"):
    """One output (N, boxes, 4 + classes): centre, size and class scores."""

    kernel: ClassVar = decode_centres
    output: str

    def shapes(self, classes):
        return {self.output: [None, None, 4 + classes]}

    def decoder(self, input_size):
        return lambda outputs, mapping, limits: Decoded(
            *decode_centres(outputs[0], mapping, *limits)
        )

    def describe(self):
        return {self.output: "decoded boxes"}


def spec(head, labels=("cup", "cat")):
    entry = InputSpec(name="x", width=32, height=16)
    return ModelSpec(name="small", task="detect", input=entry, labels=labels, head=head)


@pytest.fixture
def model(tmp_path):
    """A graph that gives ROWS for any image."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "zero"], ["z"]),
        helper.make_node("Add", ["z", "rows"], ["found"]),
    ]
    weights = [
        numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "zero"),
        numpy_helper.from_array(ROWS[None], "rows"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 16, 32, 3])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, len(ROWS), 6])],
        weights,
    )
    path = tmp_path / "small.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_family_decodes_its_outputs_into_boxes_of_the_image(model):
    detector = Detector(model, manifest=spec(CentreHead(output="found")))
    detector.warm_up(1)
    found = detector(np.zeros((32, 64, 3), np.uint8))
    np.testing.assert_array_equal(found.boxes, [[12, 12, 20, 20], [34, 14, 46, 18]])
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    assert found.class_ids.tolist() == [0, 1]


def test_a_graph_with_other_shapes_than_the_familys_is_refused(model):
    with pytest.raises(ModelError, match=r"expected output found tensor\(float\) \[N, N, 7\]"):
        Detector(model, manifest=spec(CentreHead(output="found"), ("cup", "cat", "dog")))


def test_a_stored_spec_names_its_family_and_darknets_keeps_its_older_form():
    darknet = msgspec.convert(
        {"family": "darknet", "outputs": [{"output": "a", "anchors": [[4, 5]]}]}, Head
    )
    text = encode_spec(spec(darknet))
    assert '"heads":[{"output":"a","anchors":[[4.0,5.0]],"scale_x_y":1.0}]' in text
    assert decode_spec(text, "x.onnx") == spec(darknet)
    assert '"head":{"family":"centres","output":"found"}' in encode_spec(
        spec(CentreHead(output="found"))
    )


def test_an_unknown_family_is_refused_by_its_name():
    text = encode_spec(spec(CentreHead(output="found")))
    with pytest.raises(ModelError, match=r"x\.onnx: metadata 'vision' is not valid: .*centres"):
        decode_spec(text, "x.onnx")
