"""Plots: formats, contents and errors."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from pipeline.errors import DependencyError, InputError
from pipeline.zoo.plots import (
    check_plot_path,
    plot_confusion,
    plot_precision_recall,
    save_figure,
)

RECALL = np.linspace(0, 1, 101)
FIGURES = {
    "curves": lambda: plot_precision_recall({"all": 1 - RECALL}, RECALL, "curves"),
    "confusion": lambda: plot_confusion(np.array([[3, 1, 2], [0, 5, 0]]), ["a", "b"], "confusion"),
    "no-images-of-a-class": lambda: plot_confusion(np.zeros((2, 2), np.int64), ["a", "b"], "c"),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_is_drawn(tmp_path, draw):
    save_figure(draw(), tmp_path / "a.png")
    image = cv2.imread(str(tmp_path / "a.png"))
    assert min(image.shape[:2]) > 200
    assert len(np.unique(image)) > 10


def test_figure_contains_class_names(tmp_path):
    save_figure(FIGURES["confusion"](), tmp_path / "a.svg")
    assert "others" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("name", ["a.gif", "a", ".png/a"])
def test_unsupported_suffix_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a file name that ends in \.png, \.svg, \.pdf"):
        check_plot_path(tmp_path / name)


def test_missing_matplotlib_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        check_plot_path("a.png")


def test_odd_names_are_drawn_unchanged(tmp_path, recwarn):
    odd = ["$5 and $6", "$\\frac$", "日本", "a name of " + 9 * "many words "]
    save_figure(plot_confusion(np.eye(4, dtype=np.int64), odd, "$\\bad$"), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).min() < 50
    assert not recwarn.list
