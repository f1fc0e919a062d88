"""What is done to one frame: made ready for the detector, searched for objects, each named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.types import Classifications, Detections, Frame, Image, Result


class FrameDetector(Protocol):
    """What the pipeline needs of a detector; `infer` is called from several threads at once.

    `cancel` makes the calls under way raise as soon as they can.
    """

    def use_threads(self, threads: int) -> None: ...
    def warm_up(self) -> None: ...
    def prepare(self, image: Image) -> Any: ...
    def infer(self, prepared: Any) -> Detections: ...
    def cancel(self) -> None: ...


class BoxClassifier(Protocol):
    """What the pipeline needs of a classifier; it is called from several threads at once."""

    def use_threads(self, threads: int) -> None: ...
    def warm_up(self) -> None: ...
    def cancel(self) -> None: ...
    def __call__(self, image: Image, boxes: npt.NDArray[np.float32]) -> Classifications: ...


@dataclass(slots=True, eq=False)
class Job:
    """One frame on its way, and what is known of it so far; `ticket` is its place in the order."""

    frame: Frame
    ticket: int = -1
    prepared: Any = None
    detections: Detections | None = None
    classifications: Classifications | None = None
    stage_ns: dict[str, int] = field(default_factory=dict)

    def result(self) -> Result:
        """What was found, once all steps are done."""
        frame = self.frame
        if self.detections is None:
            raise StageError(f"frame {frame.seq}: came through without being detected in")
        return Result(frame.header, self.detections, self.classifications, self.stage_ns, frame)


class Steps:
    """The steps of a job, in order `prepare`, `detect` and `classify`.

    Each takes a job, adds what it finds, and gives it back.
    """

    def __init__(self, detector: FrameDetector, classifier: BoxClassifier | None) -> None:
        self._detector = detector
        self._classifier = classifier

    def warm_up(self, threads: int) -> None:
        """Make every call from now on use so many cores, and the first one as fast as the rest."""
        cv2.setNumThreads(threads)
        self._detector.use_threads(threads)
        self._detector.warm_up()
        if self._classifier is not None:
            self._classifier.use_threads(threads)
            self._classifier.warm_up()

    def cancel(self) -> None:
        """Make the calls under way raise as soon as they can."""
        self._detector.cancel()
        if self._classifier is not None:
            self._classifier.cancel()

    def prepare(self, job: Job) -> Job:
        """The frame as the detector takes it."""
        job.prepared = self._detector.prepare(job.frame.image)
        return job

    def detect(self, job: Job) -> Job:
        """The objects in the prepared frame."""
        job.detections = self._detector.infer(job.prepared)
        job.prepared = None
        return job

    def classify(self, job: Job) -> Job:
        """A finer name for each object, where there is a classifier."""
        if self._classifier is not None and job.detections is not None:
            job.classifications = self._classifier(job.frame.image, job.detections.boxes)
        return job
