"""The tracker: gives each object an id that it keeps from frame to frame."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from pipeline.inference.tracking.kernels import Association, Motion, TrackTable, update_tracks
from pipeline.settings import Settings, checked
from pipeline.settings.setting import Fraction
from pipeline.step import Step
from pipeline.types import Detections, Frame, Result, Tracks, described

CAPACITY = 512
"""The most tracks of one camera; further objects get none until others are forgotten."""

MAX_CAMERAS = 64
"""The most cameras; of more, the one that was not seen for longest is forgotten."""

# Fitted, with the thresholds below, to public detections of people: `make bench-tracking`.
_MOTION = Motion(
    measurement=0.121,
    speed=1.289,
    growth=0.045,
    acceleration=0.303,
    growth_change=0.067,
    damping_s=5.892,
)
_FIRST_ID = 1
_Hour = Annotated[float, Meta(ge=0, le=3600, description="0 to 3600 seconds")]


class Tracker(Step):
    """Follows the objects of each camera; a step of a `Pipeline`, or called frame by frame.

    - `score_threshold`: the score from which a detection may begin a track; a weaker one only
      continues a track that was seen in the frame before
    - `confirm_s`: how long, in seconds to the nearest frame, an object is seen before it has an id;
      until then its `track_ids` is -1
    - `memory_s`: how long, in seconds, an object that is not seen keeps its id

    Time is the difference of capture times, never a number of frames: frame rate, drops and
    variable-rate files make no difference. If a camera's stamps go backwards, its source has
    restarted and its tracks end. An object has the class with the largest sum of scores so far.

    One instance called as a function follows one camera; as a step it keeps cameras apart.
    Raises `ConfigError` if an argument is out of range.
    """

    name: ClassVar[str] = "track"

    def __init__(
        self,
        *,
        score_threshold: float = Settings.score,
        confirm_s: float = 0.1,
        memory_s: float = 1.0,
    ) -> None:
        score_threshold = checked(score_threshold, Fraction, "score_threshold")
        confirm_s = checked(confirm_s, _Hour, "confirm_s")
        memory_s = checked(memory_s, _Hour, "memory_s")
        self._association = Association(
            high=score_threshold,
            first=0.293,
            second=0.512,
            tentative=0.043,
            margin=0.008,
            margin_per_s=0.591,
            height_power=0.875,
            duplicate=0.758,
            confirm_s=confirm_s,
            tentative_memory_s=min(0.203, memory_s),
            memory_s=memory_s,
        )
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()

    def __call__(self, detections: Detections, stamp_ns: int, camera: str = "") -> Detections:
        """Return `detections` with the ids and classes of their tracks.

        `stamp_ns` is the capture time in ns. Frames of a camera come in their order. Raises
        `ValueError` if an argument has another type.
        """
        if not isinstance(detections, Detections):
            raise ValueError(f"detections must be Detections, but got {described(detections)}")
        if not isinstance(stamp_ns, (int, np.integer)):
            raise ValueError(f"stamp_ns must be a whole number, but got {described(stamp_ns)}")
        return self._follow(detections, stamp_ns, camera)[0]

    def process(self, frame: Frame | None, result: Result) -> Result:
        header = result.header
        detections, tracks = self._follow(result.detections, header.stamp_ns, header.camera)
        return replace(result, detections=detections, tracks=tracks)

    def warm_up(self, threads: int) -> None:
        """Compile the kernels, or load them from the cache, before the first frame."""
        one = Detections(
            np.array([[0, 0, 8, 8]], np.float32),
            np.ones(1, np.float32),
            np.zeros(1, np.int32),
            ("",),
        )
        camera = _Camera(1)
        for stamp_ns in (0, 1):
            camera.follow(one, stamp_ns, self._association)

    def _follow(
        self, detections: Detections, stamp_ns: int, name: str
    ) -> tuple[Detections, Tracks]:
        camera = self._cameras.get(name)
        classes = len(detections.labels)
        if camera is None or camera.classes < classes:
            first_id = _FIRST_ID if camera is None else camera.next_id
            camera = self._cameras[name] = _Camera(classes, first_id)
            if len(self._cameras) > MAX_CAMERAS:
                self._cameras.popitem(last=False)
        self._cameras.move_to_end(name)
        return camera.follow(detections, stamp_ns, self._association)


class _Camera:
    """The tracks of one camera, among objects of `classes` classes."""

    def __init__(self, classes: int, first_id: int = _FIRST_ID) -> None:
        self.classes = classes
        self._start_ns = self._now_ns = 0
        self._table = TrackTable(
            mean=np.zeros((CAPACITY, 4)),
            rate=np.zeros((CAPACITY, 4)),
            variance=np.zeros((CAPACITY, 4, 3)),
            first_s=np.zeros(CAPACITY),
            seen_s=np.zeros(CAPACITY),
            gap_s=np.zeros(CAPACITY),
            ids=np.zeros(CAPACITY, np.int64),
            confirmed=np.zeros(CAPACITY, np.bool_),
            votes=np.zeros((CAPACITY, max(classes, 1)), np.float32),
            class_ids=np.zeros(CAPACITY, np.int32),
            used=np.zeros(1, np.int64),
            next_id=np.full(1, first_id, np.int64),
            now_s=np.zeros(1),
        )

    @property
    def next_id(self) -> int:
        """The id of the next track."""
        return int(self._table.next_id[0])

    def follow(
        self, found: Detections, stamp_ns: int, association: Association
    ) -> tuple[Detections, Tracks]:
        """Return the detections with ids and classes of their tracks, and the tracks' part."""
        table = self._table
        if stamp_ns < self._now_ns or not table.used[0]:
            table.used[0] = 0
            table.now_s[0] = 0.0
            self._start_ns = stamp_ns
        self._now_ns = stamp_ns
        now_s = (stamp_ns - self._start_ns) / 1e9
        rows = update_tracks(
            table, _MOTION, association, found.boxes, found.scores, found.class_ids, now_s
        )
        has_track = rows >= 0
        ids = np.where(has_track, table.ids[rows], -1)
        class_ids = np.where(has_track, table.class_ids[rows], found.class_ids)
        tracks = Tracks(
            ids,
            np.where(has_track[:, None], table.rate[rows, :2], 0).astype(np.float32),
            np.where(has_track, now_s - table.first_s[rows], 0).astype(np.float32),
            np.where(has_track, table.gap_s[rows], 0).astype(np.float32),
        )
        return replace(found, class_ids=class_ids, track_ids=ids), tracks
