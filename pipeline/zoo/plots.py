"""Pictures of figures, drawn by matplotlib: curves and a confusion matrix.

A picture is made with `new_figure`, drawn on as matplotlib's users know it, and stored with
`save_figure`; the extra `plot` brings matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, InputError
from pipeline.zoo.onnx_file import write_atomically

FORMATS = (".png", ".svg", ".pdf")
_DPI = 120
_AS_IT_IS = {"parse_math": False}  # else what stands between two dollar signs were a formula
_LONGEST_NAME = 32
_MOST_CELLS_NAMED = 30  # classes of a confusion matrix whose names can still be read


def check_plot_path(path: str | Path) -> Path:
    """The path, where a picture can be stored under it: to be called before the work is done.

    Raises `InputError` for another ending and `DependencyError` without matplotlib.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a picture that ends in {', '.join(FORMATS)}")
    _require_matplotlib()
    return path


def new_figure(
    title: str, x_label: str, y_label: str, *, size: tuple[float, float] = (7.0, 5.0)
) -> tuple[Any, Any]:
    """A matplotlib figure of `size` inches and its axes, with a light grid; no window opens."""
    figure = _require_matplotlib()(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, **_AS_IT_IS)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def save_figure(figure: Any, path: str | Path) -> None:
    """Store a figure in the form that the file's ending names, whole or not at all.

    Raises `InputError` for another ending and `OutputError` where it cannot be written.
    """
    path = check_plot_path(path)
    write_atomically(path, picture_bytes(figure, path.suffix))


def picture_bytes(figure: Any, suffix: str = ".png") -> bytes:
    """A figure as the contents of a file of that ending, for a page that holds it inside."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a script that the font does not have
        figure.savefig(buffer, format=suffix.lower().lstrip("."), dpi=_DPI)
    return buffer.getvalue()


def plot_precision_recall(
    curves: Mapping[str, npt.NDArray[np.float64]], recall: npt.NDArray[np.float64], title: str
) -> Any:
    """Precision over recall, both 0 to 1, one named curve each: the first thick, the rest thin."""
    figure, axes = new_figure(title, "recall", "precision")
    for index, (name, precision) in enumerate(curves.items()):
        axes.plot(recall, precision, label=name, linewidth=2.5 if index == 0 else 1.0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if curves:
        axes.legend(loc="lower left", fontsize="small")
    return figure


def plot_confusion(counts: npt.NDArray[np.int64], labels: Sequence[str], title: str) -> Any:
    """A confusion matrix (k, k): row the true class, column the answer, each row as a share.

    A matrix (k, k + 1) has a last column for the answers that are none of the k `labels`.
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
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small", **_AS_IT_IS)
        axes.set_yticks(range(len(labels)), names[: len(labels)], fontsize="small", **_AS_IT_IS)
    return figure


def _cut(name: str) -> str:
    """A name that leaves room for what it names."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _require_matplotlib() -> Any:
    """Matplotlib's figure, which needs no window; its `pyplot` is not used."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (an extra, needed only to draw)
    except ImportError as error:
        raise DependencyError(
            "matplotlib: needed to draw, but not installed; pip install matplotlib"
        ) from error
    return Figure
