"""Darknet's decoder and NMS against a float64 NumPy version that shares no code with them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.inference.heads.darknet import DarknetHead, DarknetOutput
from pipeline.inference.nms import Limits
from pipeline.inference.preprocess import BoxMapping

CLASSES = 4
SIZE = (64, 48)
ANCHORS = (
    np.array([[10, 14], [23, 27], [37, 58]], np.float32),
    np.array([[8, 8], [20, 12], [30, 40]], np.float32),
)
GRIDS = ((3, 4), (6, 8))
SCALES = (1.05, 1.0)
MAPPING = BoxMapping(10.0, 7.5, -3.0, 5.0, 620, 370)
DECODE = DarknetHead(
    outputs=tuple(
        DarknetOutput(output="", anchors=tuple(map(tuple, anchors.tolist())), scale_x_y=scale)
        for anchors, scale in zip(ANCHORS, SCALES, strict=True)
    )
).decoder(SIZE)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.float64)))


def reference_candidates(heads, threshold, multi_label):
    rows = []
    for head, anchors, scale in zip(heads, ANCHORS, SCALES, strict=True):
        count, height, width = len(anchors), *head.shape[1:]
        grid = head.astype(np.float64).reshape(count, 5 + CLASSES, height, width)
        column, row = np.meshgrid(np.arange(width), np.arange(height))
        with np.errstate(all="ignore"):
            cx = (column + scale * sigmoid(grid[:, 0]) - (scale - 1) / 2) / width * SIZE[0]
            cy = (row + scale * sigmoid(grid[:, 1]) - (scale - 1) / 2) / height * SIZE[1]
            w = np.exp(grid[:, 2]) * anchors[:, 0, None, None]
            h = np.exp(grid[:, 3]) * anchors[:, 1, None, None]
            x1 = (cx - w / 2) * MAPPING.scale_x + MAPPING.offset_x
            y1 = (cy - h / 2) * MAPPING.scale_y + MAPPING.offset_y
            x2 = (cx + w / 2) * MAPPING.scale_x + MAPPING.offset_x
            y2 = (cy + h / 2) * MAPPING.scale_y + MAPPING.offset_y
        scores = sigmoid(grid[:, 4])[:, None] * sigmoid(grid[:, 5:])
        boxes = np.stack([x1, y1, x2, y2], -1)
        for a in range(count):
            for r in range(height):
                for c in range(width):
                    box, score = boxes[a, r, c], scores[a, :, r, c]
                    clipped = np.clip(box, 0, np.array(MAPPING[4:] * 2))
                    if not np.isfinite(box).all() or (clipped[2:] <= clipped[:2]).any():
                        continue
                    score = np.where(np.isnan(score), -1, score)
                    picks = range(CLASSES) if multi_label else [int(score.argmax())]
                    rows += [(score[k], k, box) for k in picks if score[k] > threshold]
    return rows


def reference_overlap(a, b, darknet):
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    if inner == 0:
        return 0.0
    iou = inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner)
    if not darknet:
        return iou
    enclosing = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    centre = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    return iou - ((centre**2).sum() / (enclosing**2).sum()) ** 0.6


def reference(heads, *, score, nms, darknet=False, multi_label=False, most=300):
    rows = reference_candidates(heads, score, multi_label)
    rows.sort(key=lambda row: -row[0])  # stable, as the kernel promises
    kept = []
    for row in rows:
        if len(kept) < most and all(
            row[1] != other[1] or reference_overlap(other[2], row[2], darknet) <= nms
            for other in kept
        ):
            kept.append(row)
    boxes = np.array([row[2] for row in kept]).reshape(-1, 4)
    limits = np.array(MAPPING[4:] * 2)
    return (
        np.clip(boxes, 0, limits).astype(np.float32),
        np.array([row[0] for row in kept], np.float32),
        np.array([row[1] for row in kept], np.int32),
    )


def run(heads, *, score, nms, darknet=False, multi_label=False, most=300):
    return DECODE(heads, MAPPING, Limits(score, nms, darknet, multi_label, most))


def random_heads(seed, spread=2.0, objectness=0.0):
    generator = np.random.default_rng(seed)
    heads = []
    for anchors, grid in zip(ANCHORS, GRIDS, strict=True):
        shape = (len(anchors), 5 + CLASSES, *grid)
        head = generator.normal(0, spread, shape).astype(np.float32)
        head[:, 4] += objectness
        heads.append(head.reshape(-1, *grid))
    return tuple(heads)


def assert_same(found, expected):
    assert len(found.scores) == len(expected[1])
    np.testing.assert_array_equal(found.class_ids, expected[2])
    np.testing.assert_allclose(found.scores, expected[1], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, expected[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("multi_label", [False, True], ids=["best-class", "multi-label"])
@pytest.mark.parametrize("darknet", [False, True], ids=["iou", "darknet"])
@pytest.mark.parametrize("score", [0.001, 0.25, 0.7])
@pytest.mark.parametrize("seed", range(8))
def test_random_outputs_give_what_the_reference_gives(seed, score, darknet, multi_label):
    options = {"score": score, "nms": 0.45, "darknet": darknet, "multi_label": multi_label}
    heads = random_heads(seed)
    expected = reference(heads, **options)
    assert len(expected[1]) > 0
    assert_same(run(heads, **options), expected)


def test_no_object_gives_empty_arrays():
    found = run(random_heads(0, objectness=-30.0), score=0.25, nms=0.45)
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32
    assert found.scores.shape == found.class_ids.shape == (0,)


def test_equal_scores_keep_the_order_of_the_outputs():
    heads = tuple(np.zeros_like(head) for head in random_heads(0))
    for nms in (0.0, 0.3, 1.0):
        options = {"score": 0.2, "nms": nms, "multi_label": True, "most": 5000}
        assert_same(run(heads, **options), reference(heads, **options))


def test_all_overlapping_boxes_leave_one_of_each_class():
    heads = random_heads(1, spread=0.0, objectness=9.0)
    for head in heads:
        head.reshape(3, 5 + CLASSES, *head.shape[1:])[:, 2:4] = 9.0  # larger than any image
    found = run(heads, score=0.25, nms=0.0, multi_label=True)
    assert sorted(found.class_ids) == list(range(CLASSES))
    assert (found.boxes == np.array([0, 0, 620, 370], np.float32)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("channel", range(6))
@pytest.mark.parametrize("multi_label", [False, True], ids=["best-class", "multi-label"])
def test_values_that_are_not_finite_affect_only_their_own_anchor(value, channel, multi_label):
    heads = random_heads(3)
    for head in heads:
        head.reshape(3, 5 + CLASSES, *head.shape[1:])[1, channel] = value
    options = {"score": 0.1, "nms": 0.45, "multi_label": multi_label}
    found = run(heads, **options)
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.scores).all()
    assert_same(found, reference(heads, **options))


def test_boxes_without_area_are_left_out():
    heads = random_heads(4)
    for head in heads:
        head.reshape(3, 5 + CLASSES, *head.shape[1:])[:, 2] = -np.inf
    assert len(run(heads, score=0.01, nms=0.45).scores) == 0


def test_more_candidates_than_the_first_buffer_holds_are_all_kept():
    heads = random_heads(5, objectness=6.0)
    options = {"score": 0.001, "nms": 1.0, "multi_label": True, "most": 10_000}
    expected = reference(heads, **options)
    assert len(expected[1]) > 512
    assert_same(run(heads, **options), expected)


def test_max_detections_keeps_the_best():
    heads = random_heads(6)
    every = run(heads, score=0.05, nms=0.45)
    best = run(heads, score=0.05, nms=0.45, most=5)
    np.testing.assert_array_equal(best.scores, every.scores[:5])


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_extreme_thresholds_are_exact(score):
    heads = random_heads(7)
    options = {"score": score, "nms": 0.45, "multi_label": True, "most": 10_000}
    assert_same(run(heads, **options), reference(heads, **options))
