"""Agreement of two models."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.types import Detections
from pipeline.zoo.evaluation.metrics import is_same_label, same_objects


def objects(labels, *found):
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    ids = np.array([labels.index(label) for _, label in found], np.int32)
    return Detections(boxes, np.full(len(found), 0.5, np.float32), ids, labels)


LEFT, MOVED, RIGHT = (0, 0, 10, 10), (1, 0, 11, 10), (50, 0, 60, 10)


@pytest.mark.parametrize(
    ("first", "second", "percent"),
    [
        ([(LEFT, "cat")], [(MOVED, "cat")], 100),
        ([(LEFT, "cat")], [(MOVED, "dog")], 0),
        ([(LEFT, "cat")], [(RIGHT, "cat")], 0),
        ([(LEFT, "cat"), (RIGHT, "dog")], [(LEFT, "cat")], 200 / 3),
        ([(LEFT, "cat")], [(LEFT, "cat"), (MOVED, "cat")], 200 / 3),
        ([], [], 100),
        ([], [(LEFT, "cat")], 0),
    ],
    ids=["near", "other label", "elsewhere", "one missed", "one twice", "nothing", "only one"],
)
def test_agreement_is_the_share_of_common_objects(first, second, percent):
    found = same_objects(objects(("cat", "dog"), *first), objects(("dog", "cat"), *second))
    assert found.percent == pytest.approx(percent)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("tabby, tabby cat", "Tabby", True),
        ("traffic light", "traffic_light", True),
        ("motorbike", "motorcycle", True),
        ("cat", "dog", False),
    ],
    ids=["synonym", "spelling", "two data sets", "other"],
)
def test_labels_with_a_common_name_are_the_same(first, second, is_same):
    assert is_same_label(first, second) is is_same
