"""`make bench-tracking`: the tracker on public detections, compared with other trackers.

MOTA (K. Bernardin and R. Stiefelhagen, 2008) and IDF1 (E. Ristani et al., 2016) come from
motmetrics, whose wheel carries the ground truth: TUD-Campus and TUD-Stadtmitte of MOT15, 25 frames
per second. A match needs an IoU of 0.5, both sequences count together, and only confirmed boxes
count. Each tracker has one set of parameters for all frame rates. The other trackers run if the
package `trackers` is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.tracking.tracker import Tracker
from pipeline.types import Detections

FPS = 25
STEPS = (1, 3, 5)
SEQUENCES = ("TUD-Campus", "TUD-Stadtmitte")
SCORE = 0.776  # of these detections, whose scores begin at 0.5
CROWDS = (5, 20, 100)

Rows = npt.NDArray[np.float64]
Track = Callable[[Rows, Rows, int], npt.NDArray[np.int64]]
"""Boxes (n, 4) x1 y1 x2 y2, scores (n,) and the capture time in ns to ids (n,), -1 for none."""


class Sequence(NamedTuple):
    """Detections and ground truth of one sequence, rows in the form of MOT15."""

    detections: Rows
    truth: Rows

    def frames(self, step: int) -> Iterator[tuple[int, Rows, Rows, Rows]]:
        """Every `step`-th frame: its time in ns, boxes, scores, and the truth's rows."""
        for frame in range(1, int(self.truth[:, 0].max()) + 1, step):
            found = self.detections[self.detections[:, 0] == frame]
            boxes = found[:, 2:6].copy()
            boxes[:, 2:] += boxes[:, :2]
            truth = self.truth[(self.truth[:, 0] == frame) & (self.truth[:, 6] != 0)]
            yield frame * 1_000_000_000 // FPS, boxes, found[:, 6], truth


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with tracks/")
    folder = parser.parse_args().data / "tracks"
    sequences = [read_sequence(folder, name) for name in SEQUENCES]
    print("tracker     " + "".join(f"every {step}: MOTA  IDF1   " for step in STEPS))
    for name, make in {"ours": ours, **others()}.items():
        figures = [accuracy(make, sequences, step) for step in STEPS]
        print(f"{name:12}" + "".join(f"{mota:13.1f} {idf1:5.1f}   " for mota, idf1 in figures))
    for count in CROWDS:
        print(f"{count:4} objects: {milliseconds(count):.3f} ms per frame")
    return 0


def read_sequence(folder: Path, name: str) -> Sequence:
    truth = Path(_motmetrics().__file__).parent / "data" / name / "gt.txt"
    return Sequence(
        np.loadtxt(folder / name / "det.txt", delimiter=","), np.loadtxt(truth, delimiter=",")
    )


def accuracy(make: Callable[[int], Track], sequences: list[Sequence], step: int) -> list[float]:
    """MOTA and IDF1 in percent."""
    metrics = _motmetrics()
    accumulators = []
    for sequence in sequences:
        track, accumulator = make(FPS // step), metrics.MOTAccumulator(auto_id=True)
        for stamp_ns, boxes, scores, truth in sequence.frames(step):
            ids = track(boxes, scores, stamp_ns)
            kept = boxes[ids >= 0]
            sized = np.concatenate([kept[:, :2], kept[:, 2:] - kept[:, :2]], axis=1)
            distances = np.empty((len(truth), len(kept)))
            if distances.size:
                distances = metrics.distances.iou_matrix(truth[:, 2:6], sized, max_iou=0.5)
            accumulator.update(truth[:, 1].astype(int), ids[ids >= 0], distances)
        accumulators.append(accumulator)
    summary = metrics.metrics.create().compute_many(
        accumulators, metrics=["mota", "idf1"], generate_overall=True
    )
    return [100 * float(value) for value in summary.loc["OVERALL"]]


def ours(fps: int) -> Track:
    tracker = Tracker(score_threshold=SCORE)

    def track(boxes: Rows, scores: Rows, stamp_ns: int) -> npt.NDArray[np.int64]:
        ids = np.zeros(len(boxes), np.int32)
        found = Detections(boxes.astype(np.float32), scores.astype(np.float32), ids, ("person",))
        return tracker(found, stamp_ns).track_ids

    return track


def others() -> dict[str, Callable[[int], Track]]:
    """The trackers of the package `trackers`, with their own defaults and the frame rate given."""
    try:
        import supervision  # noqa: PLC0415 - optional
        import trackers  # noqa: PLC0415 - optional
    except ImportError:
        print("only ours: pip install trackers for the others (740 MB)", file=sys.stderr)
        return {}

    def maker(kind: str) -> Callable[[int], Track]:
        def make(fps: int) -> Track:
            tracker = getattr(trackers, kind)(frame_rate=float(fps))

            def track(boxes: Rows, scores: Rows, stamp_ns: int) -> npt.NDArray[np.int64]:
                found = supervision.Detections(
                    xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), int)
                )
                return _ids_in_order(tracker.update(found), boxes)

            return track

        return make

    names = {"SORT": "SORTTracker", "ByteTrack": "ByteTrackTracker", "OC-SORT": "OCSORTTracker"}
    return {name: maker(kind) for name, kind in names.items() if hasattr(trackers, kind)}


def _ids_in_order(tracked: object, boxes: Rows) -> npt.NDArray[np.int64]:
    """Ids for `boxes`; a tracker may return the boxes in another order."""
    ids = np.full(len(boxes), -1, np.int64)
    for box, track_id in zip(tracked.xyxy, tracked.tracker_id, strict=True):  # type: ignore[attr-defined]
        if track_id is not None:
            ids[np.abs(boxes - box).sum(axis=1).argmin()] = track_id
    return ids


def milliseconds(count: int, frames: int = 300) -> float:
    """The time per frame for `count` moving objects."""
    random = np.random.default_rng(0)
    place, speed = random.uniform(0, 1000, (count, 2)), random.uniform(-1, 1, (count, 2))
    size = random.uniform(20, 60, (count, 1)) * [1, 2]
    labels, tracker, total_s = ("",) * 80, Tracker(), 0.0
    for frame in range(frames):
        place += speed
        corner = place + random.normal(0, 1, place.shape)
        boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        scores = random.uniform(0.3, 1, count).astype(np.float32)
        found = Detections(boxes, scores, np.zeros(count, np.int32), labels)
        started_s = time.perf_counter()
        tracker(found, frame * 33_333_333)
        if frame >= 10:
            total_s += time.perf_counter() - started_s
    return 1000 * total_s / (frames - 10)


def _motmetrics():  # type: ignore[no-untyped-def]
    if not hasattr(np, "asfarray"):  # which motmetrics 1.4 still takes from NumPy 1
        np.asfarray = lambda array, dtype=np.float64: np.asarray(array, dtype)  # type: ignore[attr-defined]
    import motmetrics  # noqa: PLC0415 - after the line above

    return motmetrics


if __name__ == "__main__":
    sys.exit(main())
