"""The network of YOLOv4-tiny: its layers, cost, classes and labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inference.detector import Detector
from pipeline.inference.session import open_model
from pipeline.zoo.architectures.yolov4_tiny import (
    YoloV4Tiny,
    build_yolov4_tiny,
    make_config,
    make_yolo_spec,
)
from pipeline.zoo.candidates import detectors
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.graphs.cost import count_cost
from pipeline.zoo.onnx_file import save_model

pytest.importorskip("onnx")


def test_layers_equal_the_official_cfg(shared):
    official = read_config(shared / "models" / "yolov4-tiny.cfg")
    ours = make_config(YoloV4Tiny(416, 80))
    assert ours.layers == tuple(replace(layer, line=0) for layer in official.layers)
    assert (ours.width, ours.height, ours.letterbox) == (416, 416, False)


@pytest.mark.parametrize(("side", "classes"), [(256, 1), (416, 80), (96, 3)])
def test_cost_follows_the_input_size_and_the_classes(side, classes):
    """3,453,938,176 multiply-adds at 416 pixels and 80 classes, all in convolutions."""
    found = count_cost(build_yolov4_tiny(YoloV4Tiny(side, classes)))
    heads = sum(width * (side // stride) ** 2 for width, stride in ((512, 32), (256, 16)))
    reference = sum(width * (416 // stride) ** 2 for width, stride in ((512, 32), (256, 16)))
    backbone = (3_453_938_176 - 255 * reference) * side**2 // 416**2
    assert found.multiply_adds == backbone + 3 * (5 + classes) * heads
    assert found.parameters == 6_053_502 - (80 - classes) * 3 * (512 + 256 + 2)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_network_opens_as_a_detector_of_its_classes(tmp_path, int8):
    (candidate,) = detectors((96,), (3,))
    path = tmp_path / "mine.onnx"
    save_model(candidate.build(int8), candidate.spec(), path)
    found = Detector(path, score_threshold=0.3)(np.full((120, 160, 3), 90, np.uint8))
    assert set(found.labels) <= {"class 0", "class 1", "class 2"}
    heads = open_model(path).run(np.full((1, 96, 96, 3), 90, np.uint8))
    assert [head.shape for head in heads] == [(1, 24, 3, 3), (1, 24, 6, 6)]


def test_labels_are_cocos_for_80_classes():
    assert make_yolo_spec(YoloV4Tiny()).labels[0] == "person"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((400,), "multiple of 32 from 32 to 2048, got 400"), ((416, 0), "classes: .* got 0")],
    ids=["size", "classes"],
)
def test_unsupported_member_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        YoloV4Tiny(*arguments)
