"""Draws boxes and labels on images, readable at any resolution."""

from __future__ import annotations

import colorsys
import threading
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.types import Image, Result, check_image

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FULL_HEIGHT = 32  # pixels from the top of a capital to the foot of a g, at font scale 1
_GOLDEN = 0.618033988749895
_SATURATIONS = (0.75, 0.95, 0.5)  # distinguish classes whose hues are close
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)
# OpenCV draws UTF-8 text from version 5, and only ASCII before.
_UNICODE = hasattr(cv2, "FontFace")

_drawing = threading.Lock()


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that suit an image."""

    line: int
    scale: float
    stroke: int
    text: int
    pad: int

    @classmethod
    def of(cls, width: int, height: int) -> _Style:
        # Grows slower than the image: even at 120 lines a readable letter needs 9 pixels.
        text = max(9, round(0.02 * min(width, height) + 4))
        line = max(1, round(min(width, height) / 240))
        return cls(line, text / _FULL_HEIGHT, max(1, round(text / 18)), text, max(1, text // 6))


@dataclass(frozen=True)
class _Label:
    lines: tuple[str, ...]
    box: Box
    color: Color


def draw(image: Image, result: Result, *, out: Image | None = None) -> Image:
    """Draw the objects of `result` on a copy of `image`, which is not changed.

    `image` is (H, W, 3) uint8 BGR, the frame of the result at any scale. The drawing goes into
    `out`, of the same shape, or into a new array, and is returned. Every class has its own colour,
    the same in every run; the best class of the classifier stands below the label.

    Raises `ValueError` if `image` has another form or `out` does not fit.
    """
    check_image("image", image)
    if out is None:
        out = image.copy()
    else:
        if out.shape != image.shape or out.dtype != image.dtype:
            raise ValueError(
                f"out must have shape {image.shape} of {image.dtype}, "
                f"but got shape {out.shape} of {out.dtype}"
            )
        np.copyto(out, image)
    if len(result.detections):
        height, width = image.shape[:2]
        style = _Style.of(width, height)
        boxes = _pixel_boxes(result, width, height)
        labels = _place(_texts(result), boxes, result, style, (width, height))
        for box, label in zip(reversed(boxes), reversed(labels), strict=True):
            cv2.rectangle(out, box[:2], box[2:], label.color, style.line)
        for label in reversed(labels):
            _write(out, label, style)
    return out


def annotated(result: Result) -> Image:
    """The result's image with boxes and labels, read-only.

    Drawn once for all outputs that show the same result at about the same time, whatever their
    thread. Raises `OutputError` if the result came without its image.
    """
    with _drawing:
        return _annotated(result)


@lru_cache(maxsize=2)  # one that is shown, and one that a slower output still writes
def _annotated(result: Result) -> Image:
    if result.image is None:
        raise OutputError(
            f"{result.header.camera}: frame {result.header.seq} came without its image, "
            f"so it cannot be drawn"
        )
    image = draw(result.image, result)
    image.flags.writeable = False
    return image


@lru_cache(maxsize=4096)
def class_color(class_id: int) -> Color:
    """A bright colour (blue, green, red) for a class; neighbours differ by the golden ratio."""
    hue, saturation = (class_id * _GOLDEN + 0.05) % 1, _SATURATIONS[class_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def _text_color(background: Color) -> Color:
    """Black or white, by the luma of ITU-R BT.601."""
    blue, green, red = background
    return _DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else _LIGHT


def _pixel_boxes(result: Result, width: int, height: int) -> list[Box]:
    """Corners as whole pixels inside the image, also of boxes that are not finite."""
    header = result.header
    scale = np.array([width / header.width, height / header.height] * 2)
    limit = np.array([width - 1, height - 1] * 2)
    boxes = np.nan_to_num(result.detections.boxes.astype(np.float64) * scale)
    whole = np.clip(np.rint(boxes), 0, limit).astype(int)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in whole.tolist()]


def _texts(result: Result) -> list[tuple[str, ...]]:
    found, classes = result.detections, result.classifications
    texts: list[tuple[str, ...]] = []
    for index, (class_id, score) in enumerate(
        zip(found.class_ids.tolist(), found.scores.tolist(), strict=True)
    ):
        track = int(found.track_ids[index])
        name = f"{found.labels[class_id]} #{track}" if track >= 0 else found.labels[class_id]
        text: tuple[str, ...] = (_drawable(f"{name} {score:.2f}"),)
        if classes is not None and classes.ids.shape[1]:
            # ImageNet's labels list synonyms; the first is enough.
            best = classes.labels[int(classes.ids[index, 0])].partition(",")[0]
            text += (_drawable(f"{best} {classes.scores[index, 0]:.2f}"),)
        texts.append(text)
    return texts


@lru_cache(maxsize=4096)
def _drawable(text: str) -> str:
    """Remove from `text` what the font cannot show."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if _UNICODE or text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text)
    kept = (letter for letter in parts if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in kept)


def _place(
    texts: list[tuple[str, ...]],
    boxes: list[Box],
    result: Result,
    style: _Style,
    size: tuple[int, int],
) -> list[_Label]:
    """Place each label, best score first, where it covers other labels least."""
    labels: list[_Label] = []
    taken: npt.NDArray[np.int_] = np.empty((0, 4), int)
    class_ids = result.detections.class_ids.tolist()
    for lines, box, class_id in zip(texts, boxes, class_ids, strict=True):
        if box[3] - box[1] < 3 * (style.text + 2 * style.pad):
            lines = lines[:1]  # noqa: PLW2901 - a small object has no room for its class
        lines = tuple(_shorten(line, style, size[0]) for line in lines)  # noqa: PLW2901
        area = _best_area(_candidates(_extent(lines, style), box, size), taken)
        taken = np.vstack([taken, area])
        labels.append(_Label(lines, area, class_color(class_id)))
    return labels


def _extent(lines: tuple[str, ...], style: _Style) -> tuple[int, int]:
    """Width and height of the label's area in pixels."""
    width = max(_text_width(line, style) for line in lines) + 2 * style.pad
    return width, len(lines) * (style.text + style.pad) + style.pad


def _candidates(extent: tuple[int, int], box: Box, size: tuple[int, int]) -> list[Box]:
    """Above the box, at its top, at its bottom, and below it; moved into the image."""
    x1, y1, _, y2 = box
    width, height = extent
    left = max(0, min(x1, size[0] - width))
    areas = []
    for top in (y1 - height, y1, y2 - height, y2):
        inside = max(0, min(top, size[1] - height))
        areas.append((left, inside, min(left + width, size[0]), min(inside + height, size[1])))
    return areas


def _best_area(areas: list[Box], taken: npt.NDArray[np.int_]) -> Box:
    """The first area that covers nothing taken, else the one that covers least."""
    if not len(taken):
        return areas[0]
    corners = np.array(areas)[:, None]
    overlap = np.minimum(corners[..., 2:], taken[:, 2:]) - np.maximum(
        corners[..., :2], taken[:, :2]
    )
    return areas[int(overlap.clip(0).prod(axis=2).sum(axis=1).argmin())]


def _shorten(text: str, style: _Style, limit: int) -> str:
    """Shorten `text` so that its label is no wider than the image."""
    room = limit - 2 * style.pad
    if _text_width(text, style) <= room:
        return text
    while text and _text_width(text + "...", style) > room:
        text = text[:-1]
    return text + "..."


@lru_cache(maxsize=4096)
def _text_width(text: str, style: _Style) -> int:
    return int(cv2.getTextSize(text, _FONT, style.scale, style.stroke)[0][0])


def _write(out: Image, label: _Label, style: _Style) -> None:
    left, top, right, bottom = label.box
    cv2.rectangle(out, (left, top), (right - 1, bottom - 1), label.color, cv2.FILLED)
    color = _text_color(label.color)
    for number, line in enumerate(label.lines, start=1):
        # The foot of a g reaches a quarter of the full height below the base line.
        base = top + number * (style.text + style.pad) - round(0.24 * style.text)
        at = (left + style.pad, base)
        cv2.putText(out, line, at, _FONT, style.scale, color, style.stroke, cv2.LINE_AA)
