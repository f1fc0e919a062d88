"""Draws a comparison as one image: a row for each image, a column for each model."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.images import encode_jpeg
from pipeline.output.drawing import draw
from pipeline.types import Detections, Header, Image, Result
from pipeline.zoo.evaluation.comparison import Answer, Comparison, summarize

PANEL = 480
"""The longer side of one image in pixels."""
_LINE = 24
_PAD = 8
_PAPER, _INK, _FAINT = (250, 250, 250), (30, 30, 30), (110, 110, 110)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_JPEG_QUALITY = 88


def draw_comparison(found: Comparison) -> bytes:
    """A JPEG of every shown image with the answer of every model."""
    titles = [f"{contender.name}   {contender.latency_ms:.1f} ms" for contender in found.contenders]
    header = _row([_strip([title], PANEL) for title in titles])
    rows = [header]
    for shown in found.images:
        panels = [_panel(shown.image, answer) for answer in shown.answers]
        rows.append(_row(panels))
    return encode_jpeg(np.concatenate(rows), _JPEG_QUALITY)


def _panel(image: Image, answer: Answer) -> Image:
    """The image with boxes drawn in, or with classes below it."""
    scale = PANEL / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    if isinstance(answer, Detections):
        header = Header("", 0, 0, image.shape[1], image.shape[0])
        small = draw(small, Result(header, answer))
        lines = [f"{len(answer)} object{'' if len(answer) == 1 else 's'}"]
    else:
        lines = summarize(answer).split(", ")
    if width < PANEL:
        left = (PANEL - width) // 2
        sides = (0, 0, left, PANEL - width - left)
        small = cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=_PAPER)
    return np.concatenate([small, _strip(lines, PANEL, faint=True)])


def _strip(lines: list[str], width: int, *, faint: bool = False) -> Image:
    """Lines of text on a blank background; a line that is too wide is cut."""
    strip = np.full((_LINE * len(lines) + 2 * _PAD, width, 3), _PAPER, np.uint8)
    for number, line in enumerate(lines, start=1):
        text = line.encode("ascii", "replace").decode()
        while text and cv2.getTextSize(text, _FONT, 0.55, 1)[0][0] > width - 2 * _PAD:
            text = text[:-1]
        at = (_PAD, _PAD + number * _LINE - 7)
        cv2.putText(strip, text, at, _FONT, 0.55, _FAINT if faint else _INK, 1, cv2.LINE_AA)
    return strip


def _row(panels: list[Image]) -> Image:
    """Panels side by side, filled with background below the shorter ones and in between."""
    height = max(panel.shape[0] for panel in panels)
    filled = []
    for panel in panels:
        sides = (0, height - panel.shape[0], _PAD, _PAD)
        filled.append(cv2.copyMakeBorder(panel, *sides, cv2.BORDER_CONSTANT, value=_PAPER))
    return np.concatenate(filled, axis=1)
