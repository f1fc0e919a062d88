"""Detection accuracy as COCO measures it, over a folder of pictures with YOLO-format boxes.

The folder holds `images/NAME.jpg` and `labels/NAME.txt`, one box a line: class, centre x, centre y,
width, height, the last four as fractions of the picture. A picture without a text file has none.
AP is the mean over IoU thresholds 0.50 to 0.95, AP50 that at 0.50 (https://cocodataset.org/,
"Detection evaluation"), computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, InputError
from pipeline.types import Detections, Image

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class LabelledPicture:
    """A picture file with its true boxes: `class_ids` (n,) and `boxes` (n, 4), fractions."""

    path: Path
    class_ids: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]


class Accuracy(NamedTuple):
    """AP and AP50 in percent over so many pictures."""

    ap: float
    ap50: float
    pictures: int


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files in `folder`, sorted by name.

    Raises `InputError` where there is no such folder or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, but there is no such folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise InputError(f"{folder}: expected pictures ({', '.join(PICTURE_SUFFIXES)}), found none")
    return found


def read_picture(path: Path) -> Image:
    """One picture as (H, W, 3) uint8 BGR. Raises `InputError` where it cannot be decoded."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: expected a picture, but it cannot be decoded")
    return np.asarray(image, np.uint8)


def read_yolo_folder(folder: str | Path) -> list[LabelledPicture]:
    """The pictures of `folder` with their boxes.

    Raises `InputError` where the folder is not laid out as said above or a line is no box.
    """
    folder = Path(folder)
    return [
        LabelledPicture(path, *_read_boxes(folder / "labels" / f"{path.stem}.txt"))
        for path in list_pictures(folder / "images")
    ]


def evaluate_detector(
    detect: Callable[[Image], Detections], pictures: list[LabelledPicture]
) -> Accuracy:
    """AP and AP50 of `detect` over `pictures`.

    COCO's figure counts the 100 best detections of each class and picture, also those of very low
    score: `detect` should keep scores down to 0.001.

    Raises `DependencyError` without pycocotools and `InputError` where there are no true boxes.
    """
    ground_truth, coco_eval = _require_pycocotools()
    images: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    results: list[npt.NDArray[np.float64]] = []
    for image_id, picture in enumerate(pictures, start=1):
        image = read_picture(picture.path)
        height, width = image.shape[:2]
        images.append({"id": image_id, "width": width, "height": height})
        for truth in _truths(picture, width, height):
            truths.append({**truth, "id": len(truths) + 1, "image_id": image_id})
        results.append(_results(detect(image), image_id))
    if not truths:
        raise InputError("evaluation: expected pictures with true boxes, but none has any")
    found = np.concatenate(results)
    if not len(found):  # pycocotools does not take an empty list
        return Accuracy(0.0, 0.0, len(pictures))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        truth = ground_truth()
        truth.dataset = {"images": images, "annotations": truths, "categories": _categories(truths)}
        truth.createIndex()
        evaluation = coco_eval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50 = (100.0 * float(value) for value in evaluation.stats[:2])
    return Accuracy(ap, ap50, len(pictures))


def _read_boxes(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rows: list[list[float]] = []
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *box = (float(field) for field in line.split())
        except ValueError:
            box = []
        if len(box) != 4:
            raise InputError(
                f"{path}: line {number}: expected class, x, y, width, height, but got '{line}'"
            )
        rows.append([class_id, *box])
    table = np.array(rows, np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:]


def _truths(picture: LabelledPicture, width: int, height: int) -> Iterator[dict[str, Any]]:
    for class_id, (x, y, w, h) in zip(picture.class_ids, picture.boxes, strict=True):
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        yield {
            "category_id": int(class_id),
            "bbox": [float(value) for value in box],
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
        }


def _results(found: Detections, image_id: int) -> npt.NDArray[np.float64]:
    """Rows of image id, x, y, width, height, score, class: what pycocotools reads."""
    rows = np.empty((len(found), 7), np.float64)
    rows[:, 0] = image_id
    rows[:, 1:3] = found.boxes[:, :2]
    rows[:, 3:5] = found.boxes[:, 2:] - found.boxes[:, :2]
    rows[:, 5] = found.scores
    rows[:, 6] = found.class_ids
    return rows


def _categories(truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Classes that occur: those without a true box have no defined precision."""
    return [{"id": class_id} for class_id in sorted({truth["category_id"] for truth in truths})]


def _require_pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO  # noqa: PLC0415  (an extra, needed only to evaluate)
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError as error:
        raise DependencyError(
            "pycocotools: needed to evaluate, but not installed; pip install pycocotools"
        ) from error
    return COCO, COCOeval
