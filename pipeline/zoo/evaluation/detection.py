"""Detection accuracy as COCO measures it, over pictures with true boxes.

A YOLO-format folder holds `images/NAME.jpg` and `labels/NAME.txt`, one box a line: class, centre x,
centre y, width, height, the last four as fractions of the picture. A picture without a text file
has none. AP is the mean over IoU thresholds 0.50 to 0.95, AP50 that at 0.50
(https://cocodataset.org/, "Detection evaluation"), computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, InputError
from pipeline.types import Detections, Image
from pipeline.zoo.datasets.image_folders import list_pictures, read_picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPicture:
    """A picture file with its true boxes: `class_ids` (n,) and `boxes` (n, 4), fractions.

    A box is centre x, centre y, width, height. `areas` (n,) are fractions of the picture, for sets
    that know an object's outline; None takes the boxes'. `optional` (n,) marks boxes that may be
    found and need not be: crowds, and what is too difficult. `size` is the picture's width and
    height in pixels where the labels tell it.
    """

    path: Path
    class_ids: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64] | None = None
    optional: npt.NDArray[np.bool_] | None = None
    size: tuple[int, int] | None = None


class ClassAccuracy(NamedTuple):
    """AP and AP50 of one class in percent, and its number of true boxes."""

    class_id: int
    ap: float
    ap50: float
    boxes: int


class Accuracy(NamedTuple):
    """AP and its relatives in percent over so many pictures.

    AP of small objects (up to 32 x 32 pixels), medium and large ones (from 96 x 96) is None where
    there are none. `precision50` and `precision75` (101,) are the precision at the recalls 0, 0.01,
    ... 1 for an IoU of 0.50 and 0.75, mean of the classes.
    """

    ap: float
    ap50: float
    pictures: int
    ap75: float = 0.0
    small: float | None = None
    medium: float | None = None
    large: float | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    precision50: npt.NDArray[np.float64] | None = None
    precision75: npt.NDArray[np.float64] | None = None


RECALLS = np.arange(101) / 100
"""Where pycocotools takes the precision."""

_ANY_SIZE, _MOST = 0, -1  # of pycocotools' areas and of its numbers of detections
_IOU50, _IOU75 = 0, 5
_SAME_SHAPE = 0.02  # of the relation of the sides, which rounding to whole pixels may change
_LARGEST_CLASS = 2**31
_NO_BOXES = "evaluation: expected pictures with true boxes, but none has any"


def read_yolo_folder(folder: str | Path) -> list[LabelledPicture]:
    """The pictures of `folder` with their boxes.

    Raises `InputError` where the folder is not laid out as said above or a line is no box.
    """
    folder = Path(folder)
    return [
        LabelledPicture(path, *read_yolo_boxes(folder / "labels" / f"{path.stem}.txt"))
        for path in list_pictures(folder / "images")
    ]


def read_yolo_boxes(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Class ids (n,) and boxes (n, 4) of one text file; none where there is no such file.

    Raises `InputError` where it is no text or a line is no box.
    """
    rows: list[list[float]] = []
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected lines of text, but: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *box = (float(field) for field in line.split())
        except ValueError:
            box = []
        if len(box) != 4 or not _is_class(class_id) or not _is_box(*box):
            raise InputError(
                f"{path}: line {number}: expected class, x, y, width, height, the last four as "
                f"fractions of the picture, but got '{line[:80]}'"
            )
        rows.append([class_id, *box])
    table = np.array(rows, np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:]


def _is_class(value: float) -> bool:
    return value.is_integer() and abs(value) < _LARGEST_CLASS


def _is_box(x: float, y: float, width: float, height: float) -> bool:
    """Whether all may be fractions; what people draw may lie a little beyond the edge."""
    return all(-0.1 <= value <= 1.1 for value in (x, y, width, height)) and min(width, height) >= 0


def evaluate_detector(
    detect: Callable[[Image], Detections],
    pictures: Iterable[LabelledPicture],
    read: Callable[[], Iterable[tuple[Path, Image]]] | None = None,
) -> Accuracy:
    """AP and its relatives of `detect` over `pictures`.

    COCO's figure counts the 100 best detections of each class and picture, also those of very low
    score: `detect` should keep scores down to 0.001. `read` gives paths and pixels where not every
    picture may be readable; those that it leaves out do not count.

    Raises `DependencyError` without pycocotools and `InputError` where there are no true boxes.
    """
    by_path = {picture.path: picture for picture in pictures}
    check_measurable(by_path.values())  # before all the work
    images: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    results: list[npt.NDArray[np.float64]] = [np.empty((0, 7))]
    source = ((path, read_picture(path)) for path in by_path) if read is None else read()
    reshaped: list[str] = []
    for image_id, (path, image) in enumerate(source, start=1):
        height, width = image.shape[:2]
        images.append({"id": image_id, "width": width, "height": height})
        if not _has_shape(by_path[path].size, width, height):
            reshaped.append(path.name)
        for truth in _truths(by_path[path], width, height):
            truths.append({**truth, "id": len(truths) + 1, "image_id": image_id})
        results.append(_results(detect(image), image_id))
    _warn_of_shapes(reshaped, len(images))
    if not any(not truth["iscrowd"] for truth in truths):
        raise InputError(_NO_BOXES)
    return _accuracy(images, truths, np.concatenate(results))


def check_measurable(pictures: Iterable[LabelledPicture]) -> None:
    """Raise `DependencyError` without pycocotools and `InputError` where there are no true boxes.

    For who has much to do before `evaluate_detector`.
    """
    _require_pycocotools()
    if not any(_has_box(picture) for picture in pictures):
        raise InputError(_NO_BOXES)


def _has_box(picture: LabelledPicture) -> bool:
    return len(picture.boxes) > 0 and (picture.optional is None or not picture.optional.all())


def _has_shape(size: tuple[int, int] | None, width: int, height: int) -> bool:
    """Whether a picture may be of the size that its labels tell, or scaled."""
    return size is None or abs(size[0] * height / (size[1] * width) - 1) <= _SAME_SHAPE


def _warn_of_shapes(reshaped: list[str], total: int) -> None:
    if reshaped:
        logger.warning(
            "%d of %d pictures have another shape than their labels say, %s for one: its boxes do "
            "not fit; were pictures turned or cut after they were labelled?",
            len(reshaped),
            total,
            reshaped[0],
        )


def _accuracy(
    images: list[dict[str, Any]], truths: list[dict[str, Any]], found: npt.NDArray[np.float64]
) -> Accuracy:
    """What pycocotools says of true and found boxes."""
    if not len(found):  # pycocotools does not take an empty list
        return Accuracy(0.0, 0.0, len(images))
    ground_truth, coco_eval = _require_pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        truth = ground_truth()
        truth.dataset = {"images": images, "annotations": truths, "categories": _categories(truths)}
        truth.createIndex()
        evaluation = coco_eval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large = (
        None if value < 0 else 100.0 * float(value) for value in evaluation.stats[:6]
    )
    precision = evaluation.eval["precision"][..., _ANY_SIZE, _MOST]  # IoU, recall, class
    return Accuracy(
        ap or 0.0,
        ap50 or 0.0,
        len(images),
        ap75 or 0.0,
        small,
        medium,
        large,
        classes=tuple(_by_class(truths, evaluation.params.catIds, precision)),
        precision50=np.asarray(precision[_IOU50].mean(axis=1, where=precision[_IOU50] >= 0)),
        precision75=np.asarray(precision[_IOU75].mean(axis=1, where=precision[_IOU75] >= 0)),
    )


def _by_class(
    truths: list[dict[str, Any]], class_ids: list[int], precision: npt.NDArray[np.float64]
) -> Iterator[ClassAccuracy]:
    for index, class_id in enumerate(class_ids):
        count = sum(t["category_id"] == int(class_id) and not t["iscrowd"] for t in truths)
        if count:
            of_class = 100.0 * precision[:, :, index]
            yield ClassAccuracy(
                int(class_id), float(of_class.mean()), float(of_class[_IOU50].mean()), count
            )


def _truths(picture: LabelledPicture, width: int, height: int) -> Iterator[dict[str, Any]]:
    boxes = picture.boxes * np.array([width, height, width, height])
    areas = boxes[:, 2] * boxes[:, 3]
    if picture.areas is not None:
        areas = picture.areas * (width * height)
    optional = np.zeros(len(boxes), np.bool_) if picture.optional is None else picture.optional
    for class_id, (x, y, w, h), area, is_optional in zip(
        picture.class_ids, boxes, areas, optional, strict=True
    ):
        yield {
            "category_id": int(class_id),
            "bbox": [float(value) for value in (x - w / 2, y - h / 2, w, h)],
            "area": float(area),
            "iscrowd": int(is_optional),
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
