"""The compiled kernels of the tracker: motion, similarity, association, births and deaths.

Motion: each of centre x, centre y, width and height moves with its own constant velocity plus white
acceleration noise; a Kalman filter with two states per axis estimates it (Y. Bar-Shalom, X. R. Li,
T. Kirubarajan, "Estimation with Applications to Tracking and Navigation", 2001, section 6.2.2). All
noises are proportional to the height of the object, so that the scale of the image cancels out.
Time steps are seconds between capture times; no formula counts frames.

Association: two stages as in ByteTrack (arXiv 2110.06864), confirmed tracks first with the
detections of high score, then tracks of the frame before with the others. The similarity is the
IoU of boxes that are enlarged with the time since the track was seen (after C-BIoU,
arXiv 2211.14317), times a power of the ratio of their heights.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.kernels.kernel import kernel
from pipeline.inference.tracking.assignment import assign

_OTHER_CLASS = 0.9  # a detector that wavers between two classes still sees one object

Floats = npt.NDArray[np.float64]


class Motion(NamedTuple):
    """Standard deviations, as fractions of the object's height (per second for motion)."""

    measurement: float
    speed: float
    growth: float
    acceleration: float
    growth_change: float
    damping_s: float


class Association(NamedTuple):
    """Thresholds of scores and similarities, and times.

    - `high`: the score from which a detection may begin a track
    - `first`, `second`, `tentative`: the least similarity in each stage
    - `margin`, `margin_per_s`: by how much of their size boxes are enlarged on each side
    - `height_power`: the exponent of the ratio of heights
    - `duplicate`: the IoU with a matched detection from which another begins no track
    - `confirm_s`, `tentative_memory_s`, `memory_s`: when a track is confirmed and forgotten
    """

    high: float
    first: float
    second: float
    tentative: float
    margin: float
    margin_per_s: float
    height_power: float
    duplicate: float
    confirm_s: float
    tentative_memory_s: float
    memory_s: float


class TrackTable(NamedTuple):
    """Up to `capacity` tracks as parallel arrays; the first `used[0]` rows are in use.

    - `mean`, `rate` (capacity, 4): cx, cy, w, h in pixels and their change per second
    - `variance` (capacity, 4, 3): of the value, of value and rate together, of the rate
    - `first_s`, `seen_s`, `gap_s` (capacity,): when a detection was first and last matched, and
      the time between the last two
    - `ids` (capacity,): unique numbers; `confirmed` (capacity,)
    - `votes` (capacity, classes): the sum of scores per class; `class_ids` (capacity,): the largest
    - `used`, `next_id`, `now_s` (1,)
    """

    mean: Floats
    rate: Floats
    variance: Floats
    first_s: Floats
    seen_s: Floats
    gap_s: Floats
    ids: npt.NDArray[np.int64]
    confirmed: npt.NDArray[np.bool_]
    votes: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]
    next_id: npt.NDArray[np.int64]
    now_s: Floats


@kernel
def update_tracks(tracks, motion, association, boxes, scores, class_ids, now_s):
    """Advance all tracks to `now_s` and match them with the detections of that moment.

    `boxes` (n, 4) float32 x1 y1 x2 y2, `scores` (n,) float32, `class_ids` (n,) int32. Returns the
    row of each detection's confirmed track (n,) int64, -1 for none.
    """
    count, n = tracks.used[0], len(boxes)
    step_s = now_s - tracks.now_s[0]
    before_s = tracks.now_s[0]
    tracks.now_s[0] = now_s
    for row in range(count):
        _predict(tracks, row, motion, step_s)
    similarity = _similarities(tracks, count, boxes, class_ids, now_s, association)
    rows = np.full(n, -1, np.int64)  # the track of each detection
    _associate(tracks, association, similarity, scores, rows, before_s)
    for j in range(n):
        if rows[j] >= 0:
            _correct(tracks, rows[j], motion, boxes[j])
            row = rows[j]
            _see(tracks, row, scores[j], class_ids[j], now_s)
            # Rounded to the nearest frame: at 25 frames/s 0.1 s are the first frame and two more.
            age_s = now_s - tracks.first_s[row]
            if age_s + 0.5 * step_s >= association.confirm_s - 1e-9:
                tracks.confirmed[row] = True
    _bear(tracks, motion, association, boxes, scores, class_ids, rows, now_s)
    return _bury(tracks, association, rows, now_s)


@kernel
def _predict(tracks, row, motion, step_s):
    height = max(tracks.mean[row, 3], 1.0)
    keep = math.exp(-step_s / motion.damping_s)
    for axis in range(4):
        noise = motion.acceleration if axis < 2 else motion.growth_change
        q = (noise * height) ** 2
        p0, p1, p2 = tracks.variance[row, axis]
        tracks.variance[row, axis, 0] = p0 + step_s * (2 * p1 + step_s * p2) + q * step_s**3 / 3
        tracks.variance[row, axis, 1] = p1 + step_s * p2 + q * step_s**2 / 2
        tracks.variance[row, axis, 2] = p2 + q * step_s
        tracks.mean[row, axis] += tracks.rate[row, axis] * step_s
        # A size cannot change for long as a position can.
        tracks.rate[row, axis] *= keep if axis < 2 else keep * keep
    for axis in range(2, 4):
        tracks.mean[row, axis] = max(tracks.mean[row, axis], 1.0)


@kernel
def _correct(tracks, row, motion, box):
    height = max(tracks.mean[row, 3], 1.0)
    measured = (
        0.5 * np.float64(box[0] + box[2]),
        0.5 * np.float64(box[1] + box[3]),
        np.float64(box[2] - box[0]),
        np.float64(box[3] - box[1]),
    )
    r = (motion.measurement * height) ** 2
    for axis in range(4):
        p0, p1, p2 = tracks.variance[row, axis]
        gain0, gain1 = p0 / (p0 + r), p1 / (p0 + r)
        error = measured[axis] - tracks.mean[row, axis]
        tracks.mean[row, axis] += gain0 * error
        tracks.rate[row, axis] += gain1 * error
        tracks.variance[row, axis, 0] = (1 - gain0) * p0
        tracks.variance[row, axis, 1] = (1 - gain0) * p1
        tracks.variance[row, axis, 2] = p2 - gain1 * p1


@kernel
def _see(tracks, row, score, class_id, now_s):
    tracks.gap_s[row] = now_s - tracks.seen_s[row]
    tracks.seen_s[row] = now_s
    tracks.votes[row, class_id] += score
    if tracks.votes[row, class_id] > tracks.votes[row, tracks.class_ids[row]]:
        tracks.class_ids[row] = class_id


@kernel
def _similarities(tracks, count, boxes, class_ids, now_s, association):
    n = len(boxes)
    similarity = np.zeros((count, n))
    for row in range(count):
        cx, cy, w, h = tracks.mean[row]
        away_s = now_s - tracks.seen_s[row]
        margin = min(association.margin + association.margin_per_s * away_s, 1.0)
        factor = 0.5 + margin
        x1, y1, x2, y2 = cx - factor * w, cy - factor * h, cx + factor * w, cy + factor * h
        for j in range(n):
            bw, bh = boxes[j, 2] - boxes[j, 0], boxes[j, 3] - boxes[j, 1]
            u1, v1 = boxes[j, 0] - margin * bw, boxes[j, 1] - margin * bh
            u2, v2 = boxes[j, 2] + margin * bw, boxes[j, 3] + margin * bh
            width = min(x2, u2) - max(x1, u1)
            height = min(y2, v2) - max(y1, v1)
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
            ratio = min(h, bh) / max(h, bh, 1e-6)
            likeness = 1.0 if tracks.class_ids[row] == class_ids[j] else _OTHER_CLASS
            similarity[row, j] = shared / union * ratio**association.height_power * likeness
    return similarity


@kernel
def _associate(tracks, association, similarity, scores, rows, before_s):
    """Fill `rows`, the track of each detection, in three stages."""
    count = tracks.used[0]
    free = np.ones(count, np.bool_)
    for stage in range(3):
        is_first, is_second = stage == 0, stage == 1
        some_rows = np.empty(count, np.int64)
        m = 0
        for row in range(count):
            is_candidate = tracks.confirmed[row] != (stage == 2)
            if is_second and tracks.seen_s[row] < before_s:
                is_candidate = False
            if free[row] and is_candidate:
                some_rows[m] = row
                m += 1
        some_columns = np.empty(len(scores), np.int64)
        k = 0
        for j in range(len(scores)):
            is_high = scores[j] >= association.high
            if rows[j] < 0 and is_high != is_second:
                some_columns[k] = j
                k += 1
        least = association.tentative
        if is_first:
            least = association.first
        elif is_second:
            least = association.second
        match = assign(similarity, some_rows[:m], some_columns[:k], least)
        for row in range(count):
            if match[row] >= 0:
                rows[match[row]] = row
                free[row] = False


@kernel
def _bear(tracks, motion, association, boxes, scores, class_ids, rows, now_s):
    """Begin a track for each unmatched detection of high score that doubles no matched one."""
    n = len(boxes)
    for j in range(n):
        row = tracks.used[0]
        if rows[j] >= 0 or scores[j] < association.high or row == len(tracks.ids):
            continue
        is_double = False
        for k in range(n):
            if rows[k] >= 0 and _iou(boxes[j], boxes[k]) > association.duplicate:
                is_double = True
                break
        if is_double:
            continue
        width, height = boxes[j, 2] - boxes[j, 0], boxes[j, 3] - boxes[j, 1]
        tracks.mean[row, 0] = 0.5 * (boxes[j, 0] + boxes[j, 2])
        tracks.mean[row, 1] = 0.5 * (boxes[j, 1] + boxes[j, 3])
        tracks.mean[row, 2] = width
        tracks.mean[row, 3] = height
        tracks.rate[row] = 0.0
        for axis in range(4):
            speed = motion.speed if axis < 2 else motion.growth
            tracks.variance[row, axis, 0] = (motion.measurement * height) ** 2
            tracks.variance[row, axis, 1] = 0.0
            tracks.variance[row, axis, 2] = (speed * height) ** 2
        tracks.first_s[row] = tracks.seen_s[row] = now_s
        tracks.ids[row] = tracks.next_id[0]
        tracks.next_id[0] += 1
        tracks.confirmed[row] = association.confirm_s <= 0
        tracks.votes[row] = 0.0
        tracks.class_ids[row] = class_ids[j]
        _see(tracks, row, scores[j], class_ids[j], now_s)
        tracks.used[0] = row + 1
        rows[j] = row


@kernel
def _iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@kernel
def _bury(tracks, association, rows, now_s):
    """Remove forgotten tracks; returns the new rows of the detections' confirmed tracks."""
    count = tracks.used[0]
    places = np.full(count, -1, np.int64)
    left = 0
    for row in range(count):
        memory_s = association.memory_s
        if not tracks.confirmed[row]:
            memory_s = association.tentative_memory_s
        if now_s - tracks.seen_s[row] > memory_s + 1e-9:
            continue
        if left != row:
            tracks.mean[left] = tracks.mean[row]
            tracks.rate[left] = tracks.rate[row]
            tracks.variance[left] = tracks.variance[row]
            tracks.first_s[left] = tracks.first_s[row]
            tracks.seen_s[left] = tracks.seen_s[row]
            tracks.gap_s[left] = tracks.gap_s[row]
            tracks.ids[left] = tracks.ids[row]
            tracks.confirmed[left] = tracks.confirmed[row]
            tracks.votes[left] = tracks.votes[row]
            tracks.class_ids[left] = tracks.class_ids[row]
        places[row] = left
        left += 1
    tracks.used[0] = left
    confirmed = np.full(len(rows), -1, np.int64)
    for j in range(len(rows)):
        if rows[j] >= 0 and tracks.confirmed[places[rows[j]]]:
            confirmed[j] = places[rows[j]]
    return confirmed
