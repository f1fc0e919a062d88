"""The comparison of models as tables, as one image, and as a self-contained HTML page."""

from __future__ import annotations

import base64
import html
import platform
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.cli.console import short
from pipeline.images import encode_jpeg
from pipeline.inference.processor import processor
from pipeline.output.drawing import draw
from pipeline.text.display import printable
from pipeline.types import Detections, Header, Image, Result
from pipeline.zoo.evaluation.comparison import Answer, Comparison, Contender, summarize

UNKNOWN = "-"
_ABLE = {"detect": "detection", "classify": "classification"}
_ANSWERS = {
    "detect": "several objects per image, each with its class, score and box",
    "classify": "the classes of one object: of a whole image, or of a box that a detector found",
}
_USES = {
    "detect": "finding, counting, tracking and avoiding objects",
    "classify": "classifying detected objects; sorting images",
}


class Table(NamedTuple):
    """A table with its title and the notes below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


def tables(found: Comparison) -> list[Table]:
    """The answers and costs; if no two models can be compared, what each model can do."""
    if not found.is_comparable:
        return [_capabilities(found.contenders), _costs(found)]
    return [_answers(found), _costs(found)]


def _answers(found: Comparison) -> Table:
    count = len(found.images)
    rest = f" (the first {count} of {found.total} images)" if count < found.total else ""
    rows = [
        [shown.name if index == 0 else "", contender.name, summarize(answer)]
        for shown in found.images
        for index, (contender, answer) in enumerate(
            zip(found.contenders, shown.answers, strict=True)
        )
    ]
    return Table(f"Answers{rest}", ["image", "model", "answer"], rows)


def _costs(found: Comparison) -> Table:
    columns = [
        "model", "task", "input", "classes", "ms per image", "MB", "M parameters", "M MACs",
        "published, %", "licence",
    ]  # fmt: skip
    rows = [
        [
            contender.name,
            _ABLE[contender.task],
            contender.input_size,
            str(len(contender.labels)),
            short(contender.latency_ms),
            short(contender.file_bytes / 1e6),
            _millions(contender.parameters, 2),
            _millions(contender.multiply_adds, 0),
            contender.published or UNKNOWN,
            contender.licence or UNKNOWN,
        ]
        for contender in found.contenders
    ]
    if found.is_comparable:
        columns.insert(4, "agreement")
        for row, percent in zip(rows, found.agreement, strict=True):
            row.insert(4, UNKNOWN if percent is None else f"{percent:.0f} %")
        title = "Agreement with the first model of the same task, and cost on this machine"
    else:
        title = "Cost on this machine"
    return Table(title, columns, rows, _sources(found.contenders))


def _sources(contenders: list[Contender]) -> tuple[str, ...]:
    """Sources of the published figures, each once."""
    lines = (f"{c.name}: {c.published} by {c.published_source}" for c in contenders if c.published)
    return tuple(dict.fromkeys(lines))


def _capabilities(contenders: list[Contender]) -> Table:
    facts = {
        "task": [_ABLE[contender.task] for contender in contenders],
        "answers": [_ANSWERS[contender.task] for contender in contenders],
        "locates objects": ["yes" if c.task == "detect" else "no" for c in contenders],
        "several objects": ["yes" if c.task == "detect" else "no" for c in contenders],
        "classes": [_classes(contender) for contender in contenders],
        "used for": [_USES[contender.task] for contender in contenders],
    }
    rows = [[name, *values] for name, values in facts.items()]
    title = "No two of these models have a task in common; this is what each can do"
    return Table(title, ["", *(contender.name for contender in contenders)], rows)


def _classes(contender: Contender) -> str:
    labels = [label.partition(",")[0] for label in contender.labels]
    shown = ", ".join(labels[:3])
    return f"{len(labels)}: {shown}, ..." if len(labels) > 3 else f"{len(labels)}: {shown}"


def _millions(count: int | None, digits: int) -> str:
    return UNKNOWN if count is None else f"{count / 1e6:,.{digits}f}"


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


_LEAST_PANEL = 14  # rem, so that labels are readable; a wider image is scrolled
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { width: 100%; height: auto; border-radius: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .55rem;
  border-bottom: 1px solid #8884; }
th { font-weight: 600; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
.note { margin: .4rem 0; }
.note, footer { color: #777; font-size: .9rem; }
footer { margin-top: 2rem; }
"""


def page(found: Comparison, image: bytes | None) -> str:
    """The page; `image` is the JPEG of the answers side by side, if there is one."""
    names = ", ".join(contender.name for contender in found.contenders)
    columns = len(found.contenders)
    parts = [f"<h1>{_escaped(names)}</h1>"]
    if image is not None:
        data = base64.b64encode(image).decode("ascii")
        alt = f"Answers of {names} side by side"
        width = f"max-width: {PANEL * columns}px; min-width: {_LEAST_PANEL * columns}rem"
        parts.append(
            f'<div class="wide"><img style="{width}" src="data:image/jpeg;base64,{data}" '
            f'alt="{_escaped(alt)}"></div>'
        )
    parts += [_table(table) for table in tables(found)]
    parts.append(f"<footer>{_escaped(_footer(found))}</footer>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_escaped(names)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_escaped(column)}</th>' for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f'\n<p class="note">{_escaped(note)}</p>' for note in table.notes)
    return (
        f'<h2>{_escaped(table.title)}</h2>\n<div class="wide"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{notes}"
    )


def _footer(found: Comparison) -> str:
    threads = found.contenders[0].call.model.threads
    cores = f"{threads} thread{'' if threads == 1 else 's'}"
    return (
        f"Measured on {processor().name} ({platform.machine()}), {cores}, one image at a time, "
        f"from pixels to answers. Parameters and multiply-adds are counted from the files."
    )


def _escaped(text: str) -> str:
    """A text for the page."""
    return html.escape(printable(text))
