"""The interface of a step: what adds detections, tracks, classes or other parts to results."""

from __future__ import annotations

import abc
from typing import ClassVar

from pipeline.types import Frame, Result


class Step(abc.ABC):
    """Adds a part to each result, such as detections, tracks, positions or events.

    - `name`: the step's name in the statistics
    - `in_order`: the step needs the frames of each camera in their order, one at a time; if False,
      several threads may call it at once, with frames in any order

    A step keeps what it remembers per camera (`result.header.camera`).
    """

    name: ClassVar[str]
    in_order: ClassVar[bool] = True

    @abc.abstractmethod
    def process(self, frame: Frame | None, result: Result) -> Result:
        """Return `result` with this step's part added (`dataclasses.replace`).

        `frame` is None if only the result travelled here. The caller measures the time. A step that
        adds the times of its first parts to `stage_ns` has them listed under their own names. What
        is raised ends the run.
        """

    def warm_up(self, threads: int) -> None:  # noqa: B027 - optional
        """Prepare for `process` with `threads` cores per call, before the first frame."""

    def cancel(self) -> None:  # noqa: B027 - optional
        """Make calls of `process` in progress raise as soon as they can."""
