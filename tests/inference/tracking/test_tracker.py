"""The tracker against scripted scenes whose truth is known."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.inference.tracking.tracker import CAPACITY, MAX_CAMERAS, Tracker
from pipeline.types import Detections, Header, Result

from .scenes import LABELS, Mover, Seen, film, straight

SECOND = 1_000_000_000


def ids_of(frames: Iterable[Seen], tracker: Tracker | None = None) -> dict[int, list[int]]:
    """Each object's ids over time, those of frames without one left out."""
    tracker = tracker or Tracker()
    ids: dict[int, list[int]] = defaultdict(list)
    for seen in frames:
        found = tracker(seen.detections, seen.stamp_ns)
        for truth, track in zip(seen.truth, found.track_ids, strict=True):
            if track >= 0:
                ids[int(truth)].append(int(track))
    return ids


def assert_one_id_each(ids: dict[int, list[int]], objects: int) -> None:
    assert sorted(ids) == list(range(objects))
    assert {truth: len(set(track)) for truth, track in ids.items()} == dict.fromkeys(ids, 1)
    assert len({track[0] for track in ids.values()}) == objects


CROSSING = (
    Mover(straight(100, 200, 120)),
    Mover(straight(500, 230, -120)),
    Mover(straight(300, 60, 0, 60), (60, 60)),
)


@pytest.mark.parametrize("fps", [30.0, 15.0, 10.0, 5.0])
def test_objects_that_cross_keep_their_ids_at_any_frame_rate(fps):
    assert_one_id_each(ids_of(film(CROSSING, 3.0, fps)), 3)


@pytest.mark.parametrize("fps", [30.0, 10.0, 5.0])
def test_missing_detections_cost_no_id(fps):
    movers = [Mover(straight(80 + 130 * i, 100 + i % 2 * 150, 40 * (-1) ** i)) for i in range(4)]
    for seed in range(10):
        assert_one_id_each(ids_of(film(movers, 4.0, fps, miss=0.2, seed=seed)), 4)


@pytest.mark.parametrize("fps", [30.0, 10.0, 5.0])
def test_objects_that_cross_keep_their_ids_with_missing_detections(fps):
    for seed in range(20):
        assert_one_id_each(ids_of(film(CROSSING, 3.0, fps, miss=0.2, seed=seed)), 3)


def test_an_id_survives_an_occlusion_shorter_than_the_memory():
    walker = Mover(straight(100, 200, 100))
    frames = film([walker], 4.0, hidden=lambda _, time_s: 1.5 < time_s < 2.2)
    assert_one_id_each(ids_of(frames), 1)


def test_an_id_ends_with_the_memory():
    standing = Mover(straight(100, 200, 0))
    frames = list(film([standing], 5.0, hidden=lambda _, time_s: 1.0 < time_s < 2.6))
    assert len(set(ids_of(frames)[0])) == 2
    assert len(set(ids_of(frames, Tracker(memory_s=2.0))[0])) == 1


@pytest.mark.parametrize("shake", [2.0, 5.0])
def test_a_shaking_camera_costs_no_id(shake):
    movers = [Mover(straight(100 + 150 * i, 200, 15)) for i in range(4)]
    assert_one_id_each(ids_of(film(movers, 3.0, shake=shake)), 4)


def test_frames_of_uneven_times_give_the_same_ids_as_even_ones():
    frames = list(film(CROSSING, 3.0, 60.0))
    random = np.random.default_rng(3)
    uneven = [seen for seen in frames if random.random() < 0.3]
    steps = {b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(uneven)}
    assert len(steps) > 3
    assert_one_id_each(ids_of(uneven), 3)


@pytest.mark.parametrize(
    ("fps", "frames"), [(30.0, 4), (25.0, 3), (10.0, 2), (5.0, 2)], ids=lambda value: f"{value:g}"
)
def test_a_track_is_confirmed_after_a_time_and_not_after_a_number_of_frames(fps, frames):
    standing = Mover(straight(100, 200, 0))
    tracker = Tracker(confirm_s=0.1)
    ids = [
        int(tracker(seen.detections, seen.stamp_ns).track_ids[0])
        for seen in film([standing], 1.0, fps)
    ]
    assert ids.index(1) + 1 == frames


def test_a_flash_of_one_frame_gets_no_id():
    blink = film([Mover(straight(100, 200, 0))], 1.0, hidden=lambda _, time_s: time_s > 0.01)
    assert ids_of(blink) == {}


def test_confirm_time_of_zero_gives_an_id_at_once():
    first = next(iter(film([Mover(straight(100, 200, 0))], 1.0)))
    assert Tracker(confirm_s=0)(first.detections, first.stamp_ns).track_ids[0] >= 0


def one_of(class_id: int, score: float, x: float = 100.0) -> Detections:
    return Detections(
        np.array([[x, 100, x + 80, 160]], np.float32),
        np.array([score], np.float32),
        np.array([class_id], np.int32),
        LABELS,
    )


def test_an_object_keeps_one_class_when_the_detector_wavers():
    tracker, classes = Tracker(), []
    for number in range(60):
        found = one_of(2, 0.5) if number % 2 else one_of(1, 0.6)
        tracked = tracker(found, number * SECOND // 30)
        classes.append(tracked.labels[tracked.class_ids[0]])
    assert set(classes[4:]) == {"car"}


def test_weak_detections_continue_a_track_and_begin_none():
    tracker = Tracker(score_threshold=0.5)
    for number in range(10):
        weak = tracker(one_of(0, 0.2), number * SECOND // 30)
    assert weak.track_ids[0] == -1
    for number in range(10, 20):
        strong = tracker(one_of(0, 0.9), number * SECOND // 30)
    again = tracker(one_of(0, 0.2), 20 * SECOND // 30)
    assert again.track_ids[0] == strong.track_ids[0] >= 0


def test_a_source_that_restarts_gets_new_ids():
    frames = list(film([Mover(straight(100, 200, 0))], 1.0))
    tracker = Tracker()
    before, after = ids_of(frames, tracker)[0], ids_of(frames, tracker)[0]
    assert len(set(before)) == len(set(after)) == 1
    assert before[0] != after[0]


def test_cameras_are_kept_apart():
    tracker = Tracker()
    left = film([Mover(straight(100, 200, 60))], 2.0)
    right = film([Mover(straight(110, 200, -60))], 2.0, seed=1)
    ids: dict[str, set[int]] = {"left": set(), "right": set()}
    for pair in zip(left, right, strict=True):
        for camera, seen in zip(ids, pair, strict=True):
            header = Header(camera, 0, seen.stamp_ns, 640, 480)
            result = tracker.process(None, Result(header, seen.detections))
            assert result.tracks is not None
            np.testing.assert_array_equal(result.tracks.ids, result.detections.track_ids)
            ids[camera] |= {int(track) for track in result.detections.track_ids if track >= 0}
    assert {camera: len(found) for camera, found in ids.items()} == {"left": 1, "right": 1}


def test_velocity_and_age_are_those_of_the_object():
    tracker = Tracker()
    for seen in film([Mover(straight(100, 200, 90, -30))], 2.0, noise=0.5):
        header = Header("front", 0, seen.stamp_ns, 640, 480)
        result = tracker.process(None, Result(header, seen.detections))
    assert result.tracks is not None
    np.testing.assert_allclose(result.tracks.velocities[0], (90, -30), atol=8)
    assert math.isclose(result.tracks.ages_s[0], 2.0 - 1 / 30, abs_tol=0.01)
    assert math.isclose(result.tracks.gaps_s[0], 1 / 30, abs_tol=0.001)


def test_frames_without_objects_age_the_tracks():
    tracker = Tracker(memory_s=0.5)
    for number in range(10):
        seen = tracker(one_of(0, 0.9), number * SECOND // 10)
    for number in range(10, 20):
        assert len(tracker(Detections.empty(LABELS), number * SECOND // 10)) == 0
    for number in range(20, 30):
        again = tracker(one_of(0, 0.9), number * SECOND // 10)
    assert again.track_ids[0] not in (-1, seen.track_ids[0])


def test_more_objects_and_cameras_than_there_is_room_for_are_left_without_ids():
    n = CAPACITY + 100
    corner = np.stack([np.arange(n) % 40 * 50, np.arange(n) // 40 * 50], axis=1)
    crowd = Detections(
        np.concatenate([corner, corner + 40], axis=1).astype(np.float32),
        np.full(n, 0.9, np.float32),
        np.zeros(n, np.int32),
        LABELS,
    )
    tracker = Tracker()
    for number in range(10):
        found = tracker(crowd, number * SECOND // 30)
    assert np.count_nonzero(found.track_ids >= 0) == CAPACITY
    for camera in range(MAX_CAMERAS + 10):
        tracker(one_of(0, 0.9), 0, f"camera_{camera}")
    assert len(tracker._cameras) == MAX_CAMERAS


@pytest.mark.parametrize(
    "wrong",
    [{"confirm_s": -1}, {"memory_s": math.nan}, {"score_threshold": 1.5}],
    ids=["confirm", "memory", "score"],
)
def test_an_argument_out_of_range_is_an_error(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected .*0 to"):
        Tracker(**wrong)
