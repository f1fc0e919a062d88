"""The classifier: classifies the crop of each box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import RunError
from pipeline.inference.preprocess import resize
from pipeline.inference.session import ModelStep, Runtime
from pipeline.inference.spec import ModelSpec
from pipeline.settings import Settings, checked
from pipeline.settings.setting import Count
from pipeline.types import Classifications, Frame, Image, Result, check_image, described

CONTEXT = 1.1  # a crop's side over the longer side of its box: the network learned with margins
BATCH = 2  # crops in one call; larger batches are no faster per crop and take more memory


class Classifier(ModelStep):
    """Classifies each box of an image; calling it with both gives the k best classes per box.

    A crop is a square around the box's centre, so that its aspect is kept, a little larger than
    the box; outside the image its border is repeated.

    - `model`: a registry name or the path of an ONNX file
    - `top`: how many classes a box gets, all of them if the model has fewer
    - `threads`: cores for one call, all available ones by default
    - `runtime`: execution provider and threads; `threads` overrides its own
    - `manifest`: a file that says what the model expects, for models made by others

    Raises `ModelError` for the model and `ConfigError` for the rest.
    """

    name: ClassVar[str] = "classify"

    def __init__(
        self,
        model: str | Path = Settings.classifier,
        *,
        top: int = Settings.top,
        threads: int | None = None,
        runtime: Runtime | None = None,
        manifest: str | Path | ModelSpec | None = None,
    ) -> None:
        super().__init__(model, threads, runtime, manifest)
        self.top = min(checked(top, Count, "top"), len(self.labels))

    def process(self, frame: Frame | None, result: Result) -> Result:
        """Add the classes of the detected boxes to the result."""
        boxes = result.detections.boxes
        return replace(result, classifications=self(self._image_of(frame, result), boxes))

    def __call__(self, image: Image, boxes: npt.NDArray[np.float32]) -> Classifications:
        """Classify n boxes (n, 4) float32 x1 y1 x2 y2 of one (H, W, 3) uint8 BGR image.

        Raises `ValueError` if either has another form, `RunError` if the model's output is not
        finite.
        """
        check_image("image", image)
        _check_boxes(boxes)
        count = len(boxes)
        ids = np.empty((count, self.top), np.int32)
        scores = np.empty((count, self.top), np.float32)
        spec = self._model.spec.input
        batch = self._model.batch or BATCH
        for start in range(0, count, batch):
            chunk = boxes[start : start + batch]
            pixels = np.empty((len(chunk), spec.height, spec.width, 3), np.uint8)
            for i, box in enumerate(chunk):
                crop_into(image, box, pixels[i])
            (logits,) = self._model.run(pixels)
            if not np.isfinite(logits).all():
                raise RunError(
                    f"{self._model.path.name}: the classifier's output is not finite (NaN or "
                    f"infinity); the model is damaged, or its numbers exceed their type"
                )
            rows = slice(start, start + len(chunk))
            ids[rows], scores[rows] = best_classes(logits, self.top)
        return Classifications(ids, scores, self.labels)

    def _try_out(self, image: Image) -> None:
        height, width = image.shape[:2]
        self(image, np.array([[0, 0, width, height]], np.float32))


def _check_boxes(boxes: npt.NDArray[np.float32]) -> None:
    """Raise `ValueError` unless `boxes` are finite numbers of shape (n, 4)."""
    is_right = isinstance(boxes, np.ndarray) and boxes.dtype.kind in "fiu"
    if not is_right or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be an (n, 4) float32 array, but got {described(boxes)}")
    if not np.isfinite(boxes).all():
        row = int(np.argmin(np.isfinite(boxes).all(axis=1)))
        raise ValueError(f"boxes must be finite, but box {row} is {boxes[row]}")


def crop_into(image: Image, box: npt.NDArray[np.float32], out: Image) -> None:
    """Write the square around `box` (x1 y1 x2 y2, pixels) of `image` into all of `out`.

    A box without area gives the pixels around its centre. Outside the image its border is repeated.
    """
    height, width = image.shape[:2]
    # Bounds the memory of a box far larger than the image.
    x1, x2 = (min(max(float(edge), -width), 2 * width) for edge in (box[0], box[2]))
    y1, y2 = (min(max(float(edge), -height), 2 * height) for edge in (box[1], box[3]))
    side = max(1, round(max(x2 - x1, y2 - y1) * CONTEXT))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    # Every square is moved to touch the image, so that even a box outside it has pixels.
    left, top = min(max(left, 1 - side), width - 1), min(max(top, 1 - side), height - 1)
    right, bottom = left + side, top + side
    inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    margins = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if any(margins):
        inside = cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE)
    # Area averaging costs more and helps only if pixels would be skipped.
    shrinks = side > 2 * out.shape[1]
    resize(inside, out, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def best_classes(
    logits: npt.NDArray[np.float32], top: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The best classes of (n, classes) logits, best first: ids and softmax scores, (n, top)."""
    rows = np.arange(len(logits))[:, None]
    candidates = np.argpartition(-logits, top - 1, axis=1)[:, :top]
    order = np.argsort(-logits[rows, candidates], axis=1, kind="stable")
    ids = candidates[rows, order]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = exponentials[rows, ids] / exponentials.sum(axis=1, keepdims=True)
    return ids.astype(np.int32), scores.astype(np.float32)
