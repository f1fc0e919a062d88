"""Plots with matplotlib: precision over recall, confusion matrix, accuracy over latency.

The extra `plot` installs matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, InputError
from pipeline.files.writing import write_atomically

if TYPE_CHECKING:
    from pipeline.zoo.candidates import Choice

FORMATS = (".png", ".svg", ".pdf")
_DPI = 120
_PLAIN_TEXT = {"parse_math": False}  # do not read text between dollar signs as a formula
_LONGEST_NAME = 32
_MOST_CELLS_NAMED = 30  # classes of a confusion matrix with legible names
_LINE_HEIGHT = 11.0  # pixels that a name needs above the one below it
_MARKERS = "osD^vP*X"


def check_plot_path(path: str | Path) -> Path:
    """Return the path if a plot can be stored there; to be called before long work.

    Raises `InputError` for an unsupported suffix, `DependencyError` if matplotlib is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a file name that ends in {', '.join(FORMATS)}")
    _require_matplotlib()
    return path


def new_figure(
    title: str, x_label: str, y_label: str, *, size: tuple[float, float] = (7.0, 5.0)
) -> tuple[Any, Any]:
    """Return a matplotlib figure of `size` inches and its axes, with a light grid."""
    figure = _require_matplotlib()(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, **_PLAIN_TEXT)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure atomically, in the format of the file's suffix.

    Raises `InputError` for an unsupported suffix and `OutputError` if it cannot be written.
    """
    path = check_plot_path(path)
    write_atomically(path, figure_bytes(figure, path.suffix))


def figure_bytes(figure: Any, suffix: str = ".png") -> bytes:
    """Return a figure as the contents of a file with this suffix."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks some scripts
        figure.savefig(buffer, format=suffix.lower().lstrip("."), dpi=_DPI)
    return buffer.getvalue()


def plot_precision_recall(
    curves: Mapping[str, npt.NDArray[np.float64]], recall: npt.NDArray[np.float64], title: str
) -> Any:
    """Plot named curves of precision over recall, both 0 to 1; the first curve is thick."""
    figure, axes = new_figure(title, "recall", "precision")
    for index, (name, precision) in enumerate(curves.items()):
        axes.plot(recall, precision, label=name, linewidth=2.5 if index == 0 else 1.0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if curves:
        axes.legend(loc="lower left", fontsize="small")
    return figure


def plot_confusion(counts: npt.NDArray[np.int64], labels: Sequence[str], title: str) -> Any:
    """Plot a confusion matrix (k, k) by true class (row) and answer (column), as shares of rows.

    A matrix (k, k + 1) has a last column for answers that are none of the k `labels`.
    """
    names = [*labels, "others"][: counts.shape[1]]
    side = min(14.0, 3.0 + 0.3 * len(labels))
    figure, axes = new_figure(title, "answer", "true class", size=(side + 1.0, side))
    axes.grid(visible=False)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(labels) <= _MOST_CELLS_NAMED:
        names = [_cut(name) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small", **_PLAIN_TEXT)
        axes.set_yticks(range(len(labels)), names[: len(labels)], fontsize="small", **_PLAIN_TEXT)
    return figure


def plot_choices(
    choices: Sequence[Choice], chosen: Sequence[Choice], title: str, y_label: str
) -> Any:
    """Plot all `choices`, coloured by family or group, with a line through each frontier.

    Members of the frontier are named if there is room and their family has no groups (networks of a
    group differ only in their input size). `chosen` get a ring.
    """
    figure, axes = new_figure(title, "milliseconds per image on this machine", y_label, size=(8, 6))
    axes.set_xscale("log")
    for number, series in enumerate(sorted(set(map(_series, choices)), key=_natural)):
        of_series = [choice for choice in choices if _series(choice) == series]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.scatter(*_places(of_series), s=26, marker=marker, label=series, zorder=3)
    for group in dict.fromkeys(choice.candidate.group for choice in choices):
        best = [c for c in choices if c.on_frontier and c.candidate.group == group]
        axes.plot(*_places(best), color="0.6", linewidth=1.2, zorder=2)
    rings = {"facecolors": "none", "edgecolors": "black", "zorder": 4}
    axes.scatter(*_places(chosen), s=160, label="chosen", **rings) if chosen else None
    _mark_times(axes, [choice.measured.latency_ms for choice in choices])
    axes.legend(loc="lower right", fontsize="small")
    best = [choice for choice in (*chosen, *choices) if choice.on_frontier]
    _write_names(figure, axes, [choice for choice in best if not choice.candidate.group])
    return figure


def _natural(series: str) -> tuple[int, str]:
    """Return a sort key with numbers of classes in numeric order."""
    count = series.partition(" ")[0]
    return (int(count), "") if count.isdigit() else (0, series)


def _series(choice: Choice) -> str:
    return choice.candidate.group or choice.candidate.family


def _places(choices: Sequence[Choice]) -> tuple[list[float], list[float]]:
    return (
        [choice.measured.latency_ms for choice in choices],
        [choice.candidate.rank for choice in choices],
    )


def _mark_times(axes: Any, times: Sequence[float]) -> None:
    """Set ticks at 1, 2 and 5 of every power of ten, with room for names on the left."""
    low, high = 0.4 * min(times), 1.3 * max(times)
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(low, high)


def _write_names(figure: Any, axes: Any, choices: Sequence[Choice]) -> None:
    """Write names above the line, where no point lies; names that would overlap are left out."""
    figure.draw_without_rendering()
    heights: list[float] = []
    for choice in choices:
        place = (choice.measured.latency_ms, choice.candidate.rank)
        height = axes.transData.transform(place)[1]
        if any(abs(height - other) < _LINE_HEIGHT for other in heights):
            continue
        heights.append(height)
        name = choice.candidate.name.removeprefix("mobilenet_").replace("_", " ")
        axes.annotate(
            name, place, xytext=(-8, 3), textcoords="offset points", ha="right", fontsize=7
        )


def _cut(name: str) -> str:
    """Return a name that is short enough for an axis."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _require_matplotlib() -> Any:
    """Return matplotlib's Figure, which opens no window; `pyplot` is not used."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (an extra, needed only to draw)
    except ImportError as error:
        raise DependencyError(
            "matplotlib: needed to draw, but not installed; pip install matplotlib"
        ) from error
    return Figure
