"""YOLO folders, and AP of cases with a known result."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError, InputError
from pipeline.types import Detections
from pipeline.zoo.datasets.image_folders import list_images
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.evaluation.detection import evaluate_detector

LABELS = ("cat", "dog", "cup")


@pytest.fixture
def folder(tmp_path):
    """Two images of 100 x 50 with two boxes, and one without."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(3):
        image = np.full((50, 100, 3), number, np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), image)
    (tmp_path / "labels/0.txt").write_text("0 0.25 0.5 0.3 0.6\n2 0.75 0.5 0.2 0.4\n")
    (tmp_path / "labels/1.txt").write_text("0 0.5 0.5 0.5 0.5\n\n")
    return tmp_path


TRUTH = {
    0: [((10, 10, 40, 40), 0), ((65, 15, 85, 35), 2)],
    1: [((25, 12.5, 75, 37.5), 0)],
    2: [],
}


def detector(found, scores=None):
    """A detector that selects its answer by the grey value of the image."""

    def detect(image):
        boxes = found[int(image[0, 0, 0])]
        n = len(boxes)
        given = [0.9] * n if scores is None else scores[int(image[0, 0, 0])]
        return Detections(
            np.array([box for box, _ in boxes], np.float32).reshape(n, 4),
            np.array(given, np.float32),
            np.array([c for _, c in boxes], np.int32),
            LABELS,
        )

    return detect


def test_boxes_are_read_as_fractions(folder):
    first, second, third = read_yolo_folder(folder)
    assert [p.path.name for p in (first, second, third)] == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(first.class_ids, [0, 2])
    np.testing.assert_allclose(first.boxes[1], [0.75, 0.5, 0.2, 0.4])
    assert len(third.boxes) == 0


def test_truth_scores_100(folder):
    accuracy = evaluate_detector(detector(TRUTH), read_yolo_folder(folder))
    assert accuracy[:3] == pytest.approx((100, 100, 3))


def test_boxes_of_iou_072_count_up_to_070(folder):
    """5 of the 10 thresholds 0.50, 0.55, ... 0.95 lie at or below 0.72."""
    moved = {
        number: [((x1, y1, x1 + 0.72 * (x2 - x1), y2), c) for (x1, y1, x2, y2), c in boxes]
        for number, boxes in TRUTH.items()
    }
    accuracy = evaluate_detector(detector(moved), read_yolo_folder(folder))
    assert accuracy.ap50 == pytest.approx(100)
    assert accuracy.ap == pytest.approx(50)


def test_missed_class_halves_the_mean(folder):
    only_cats = {k: [box for box in boxes if box[1] == 0] for k, boxes in TRUTH.items()}
    accuracy = evaluate_detector(detector(only_cats), read_yolo_folder(folder))
    assert accuracy.ap == pytest.approx(50)


def test_false_box_with_higher_score_costs_precision(folder):
    """The only true box of the cup has rank 2: precision 1/2 at every recall."""
    found = {**TRUTH, 2: [((0, 0, 20, 20), 2)]}
    scores = {0: [0.9, 0.5], 1: [0.9], 2: [0.8]}
    accuracy = evaluate_detector(detector(found, scores), read_yolo_folder(folder))
    assert accuracy.ap == pytest.approx((100 + 50) / 2)


def test_classes_without_a_true_box_do_not_count(folder):
    found = {**TRUTH, 2: [((0, 0, 20, 20), 1)]}
    assert evaluate_detector(detector(found), read_yolo_folder(folder)).ap == pytest.approx(100)


def test_nothing_found_scores_0(folder):
    nothing = {number: [] for number in TRUTH}
    assert evaluate_detector(detector(nothing), read_yolo_folder(folder)).ap == 0


@pytest.mark.parametrize(
    "line",
    [
        "cat 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",
        "0.7 0.5 0.5 0.1 0.1",
        "0 320 240 100 80",
        "0 0.5 0.5 nan 0.1",
    ],
    ids=str,
)
def test_line_that_is_not_a_box_is_named(folder, line):
    path = folder / "labels/1.txt"
    path.write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(InputError, match=r"1\.txt: line 2: expected class, x, y, width, height"):
        read_yolo_folder(folder)


def test_images_without_true_boxes_are_refused(folder):
    for path in (folder / "labels").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="expected images with true boxes"):
        evaluate_detector(detector(TRUTH), read_yolo_folder(folder))


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        read_yolo_folder(tmp_path)
    with pytest.raises(InputError, match=r"expected images.*found none"):
        list_images(tmp_path)


def test_damaged_image_is_named(folder):
    (folder / "images/1.png").write_bytes(b"not an image")
    with pytest.raises(FrameError, match=r"1\.png: not a readable image"):
        evaluate_detector(detector(TRUTH), read_yolo_folder(folder))
