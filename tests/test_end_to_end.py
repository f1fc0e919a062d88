"""The pipeline with real videos and images and the default models."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import Classifier, Detector, Pipeline, open_source

SAMPLES = Path(__file__).parents[1] / "models" / "samples"
FRAMES = 40


@pytest.fixture(scope="module")
def detector():
    return Detector()


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.mark.parametrize("every_frame", [True, None], ids=["every-frame", "default"])
def test_results_of_a_video_equal_those_of_the_models_on_each_frame(
    video_of_objects, detector, classifier, every_frame
):
    video = str(video_of_objects.path)
    source = open_source(video)
    with Pipeline(
        source, detector, classifier, every_frame=every_frame, max_frames=FRAMES
    ) as pipeline:
        results = list(pipeline)
    assert pipeline.stats()["processed"] == len(results) == FRAMES

    capture = cv2.VideoCapture(video)
    for seq, result in enumerate(results):
        ok, image = capture.read()
        assert ok
        assert result.header.seq == seq
        assert (result.header.width, result.header.height) == (640, 360)
        np.testing.assert_array_equal(result.image, image)
        expected = detector(image)
        np.testing.assert_array_equal(result.detections.class_ids, expected.class_ids)
        np.testing.assert_allclose(result.detections.boxes, expected.boxes, atol=0.5)
        names = classifier(image, expected.boxes)
        assert len(result.classifications) == len(expected)
        np.testing.assert_allclose(result.classifications.scores, names.scores, atol=0.05)


def test_frames_without_objects_give_empty_results(tmp_path, detector, classifier):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((120, 160, 3), 90, np.uint8))
    with Pipeline(open_source(str(tmp_path)), detector, classifier) as pipeline:
        results = list(pipeline)
    assert [len(result.detections) for result in results] == [0, 0, 0]
    assert [len(result.classifications) for result in results] == [0, 0, 0]
    assert all(result.classifications.ids.shape == (0, 5) for result in results)


@pytest.mark.parametrize("size", [(160, 120), (640, 480), (1920, 1080)], ids="{0[0]}x{0[1]}".format)
def test_boxes_are_in_pixels_of_the_source_at_any_size(detector, size):
    image = cv2.imread(str(SAMPLES / "astronaut.jpg"))
    reference = detector(image)
    height, width = image.shape[:2]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    found = detector(resized)
    person = found.boxes[found.class_ids == detector.labels.index("person")][0]
    expected = reference.boxes[reference.class_ids == detector.labels.index("person")][0]
    scale = np.array([size[0] / width, size[1] / height] * 2)
    assert (person >= 0).all()
    assert (person <= np.array(size * 2)).all()
    np.testing.assert_allclose(person, expected * scale, atol=0.08 * max(size))


def test_live_scene_gives_fresh_frames_in_order(detector, classifier):
    ages_ms, seqs = [], []
    source = open_source("scene:?size=640x480&fps=30")
    with Pipeline(source, detector, classifier, max_frames=30) as pipeline:
        for result in pipeline:
            ages_ms.append((time.time_ns() - result.header.stamp_ns) / 1e6)
            seqs.append(result.header.seq)
    assert len(seqs) == 30
    assert all(a < b for a, b in pairwise(seqs))
    assert min(ages_ms) > 0
    assert np.median(ages_ms) < 1000
    stats = pipeline.stats()
    assert stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


def test_undecodable_image_is_counted_and_skipped(tmp_path, detector):
    image = cv2.imread(str(SAMPLES / "cat.jpg"))
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no image")
    with Pipeline(open_source(str(tmp_path)), detector) as pipeline:
        seqs = [result.header.seq for result in pipeline]
    assert seqs == [0, 2, 3]
    stats = pipeline.stats()
    assert (stats["captured"], stats["processed"], stats["failed"]) == (4, 3, 1)


def test_second_run_over_a_video_gives_the_same_results(video_of_objects, detector, classifier):
    video = str(video_of_objects.path)
    runs = []
    for _ in range(2):
        with Pipeline(open_source(video), detector, classifier, max_frames=15) as pipeline:
            runs.append([(r.detections.boxes, r.classifications.ids) for r in pipeline])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
