"""Shows a comparison as a self-contained HTML page."""

from __future__ import annotations

import base64
import platform
from html import escape

from pipeline.cli.commands.zoo.compare_image import PANEL
from pipeline.cli.commands.zoo.compare_tables import Table, tables
from pipeline.inference.processor import processor
from pipeline.zoo.evaluation.comparison import Comparison

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
    parts = [f"<h1>{escape(names)}</h1>"]
    if image is not None:
        data = base64.b64encode(image).decode("ascii")
        alt = f"Answers of {names} side by side"
        width = f"max-width: {PANEL * columns}px; min-width: {_LEAST_PANEL * columns}rem"
        parts.append(
            f'<div class="wide"><img style="{width}" src="data:image/jpeg;base64,{data}" '
            f'alt="{escape(alt)}"></div>'
        )
    parts += [_table(table) for table in tables(found)]
    parts.append(f"<footer>{escape(_footer(found))}</footer>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(names)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    notes = "".join(f'\n<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{notes}"
    )


def _footer(found: Comparison) -> str:
    threads = found.contenders[0].call.model.threads
    cores = f"{threads} thread{'' if threads == 1 else 's'}"
    return (
        f"Measured on {processor().name} ({platform.machine()}), {cores}, one image at a time, "
        f"from pixels to answers. Parameters and multiply-adds are counted from the files."
    )
