"""The detector: finds the objects in an image."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, ModelError
from pipeline.inference.nms import Limits
from pipeline.inference.preprocess import BoxMapping, inverse, place, resize_into
from pipeline.inference.session import ModelStep, Runtime
from pipeline.inference.spec import ModelSpec
from pipeline.settings import SETTINGS, NmsKind, Settings, checked
from pipeline.settings.setting import Count, Fraction
from pipeline.types import Detections, Frame, Image, Result, check_image

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """An image at the network's size (1, height, width, 3) uint8, and the mapping back."""

    pixels: npt.NDArray[np.uint8]
    mapping: BoxMapping


class Detector(ModelStep):
    """Finds objects with a YOLO network; calling it with a BGR image gives `Detections`.

    - `model`: a registry name or the path of an ONNX file
    - `score_threshold`: objects with a lower score, 0 to 1, are left out
    - `nms_threshold`: boxes of one class that overlap more than this are one object
    - `nms_kind`: `iou`, or `darknet` for the suppression that Darknet itself uses
    - `multi_label`: one anchor may give several classes, as Darknet's evaluation does
    - `threads`: cores for one call, all available ones by default
    - `runtime`: execution provider and threads; `threads` overrides its own
    - `manifest`: a file that says what the model expects, for models made by others

    The thresholds may be changed between calls; `__call__` is safe from several threads.
    Raises `ModelError` for the model and `ConfigError` for the rest.
    """

    name: ClassVar[str] = "detect"

    def __init__(
        self,
        model: str | Path = Settings.detector,
        *,
        score_threshold: float = Settings.score,
        nms_threshold: float = Settings.nms,
        nms_kind: NmsKind = Settings.nms_kind,
        multi_label: bool = False,
        max_detections: int = 300,
        threads: int | None = None,
        runtime: Runtime | None = None,
        manifest: str | Path | ModelSpec | None = None,
    ) -> None:
        kinds = SETTINGS["nms_kind"].choices
        if nms_kind not in kinds:
            raise ConfigError(f"nms_kind must be one of {', '.join(kinds)}, but got {nms_kind}")
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.nms_kind: NmsKind = nms_kind
        self.multi_label = multi_label
        self.max_detections: int = checked(max_detections, Count, "max_detections")
        super().__init__(model, threads, runtime, manifest)
        spec = self._model.spec
        if spec.head is None:  # a spec for detection has one
            raise ModelError(f"{self._model.path}: its spec has no head")
        self._head = spec.head
        self._decode = spec.head.decoder((spec.input.width, spec.input.height))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_decode"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        entry = self._model.spec.input
        self._decode = self._head.decoder((entry.width, entry.height))

    @property
    def score_threshold(self) -> float:
        """Objects below this score are left out."""
        return self._score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._score_threshold: float = checked(value, Fraction, "score_threshold")

    @property
    def nms_threshold(self) -> float:
        """Boxes of one class that overlap more than this are one object."""
        return self._nms_threshold

    @nms_threshold.setter
    def nms_threshold(self, value: float) -> None:
        self._nms_threshold: float = checked(value, Fraction, "nms_threshold")

    def __call__(self, image: Image) -> Detections:
        """Find the objects in one (H, W, 3) uint8 BGR image.

        Raises `ValueError` if the image has another form.
        """
        return self.infer(self.prepare(image))

    def process(self, frame: Frame | None, result: Result) -> Result:
        """Add the frame's detections to its result."""
        started_ns = time.perf_counter_ns()
        prepared = self.prepare(self._image_of(frame, result))
        preprocess_ns = time.perf_counter_ns() - started_ns
        return replace(
            result,
            detections=self.infer(prepared),
            stage_ns={**result.stage_ns, "preprocess": preprocess_ns},
        )

    def prepare(self, image: Image) -> Prepared:
        """Resize an image to the network's size: the first half of a call.

        Raises `ValueError` if the image is not (H, W, 3) uint8.
        """
        check_image("image", image)
        spec = self._model.spec.input
        height, width = image.shape[:2]
        placement = place(width, height, spec.width, spec.height, spec.fit)
        pixels = np.empty((1, spec.height, spec.width, 3), np.uint8)
        resize_into(image, pixels[0], placement)
        return Prepared(pixels, inverse(placement))

    def infer(self, prepared: Prepared) -> Detections:
        """Find the objects in a prepared image: the second half of a call."""
        limits = Limits(
            self._score_threshold,
            self._nms_threshold,
            self.nms_kind == "darknet",
            self.multi_label,
            self.max_detections,
        )
        outputs = [output[0] for output in self._model.run(prepared.pixels)]
        boxes, scores, class_ids = self._decode(outputs, prepared.mapping, limits)
        return Detections(boxes, scores, class_ids, self.labels)

    def _try_out(self, image: Image) -> None:
        self(image)
