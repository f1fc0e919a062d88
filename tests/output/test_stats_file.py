"""The figures of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.output.stats_file import write_stats


def test_figures_are_written_whole_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_text("what was there before")
    stats = {"captured": 3, "age_ms": {"p50": 1.5, "max": float("nan")}, "stages": {}}
    write_stats(path, stats)
    assert json.loads(path.read_text()) == {
        "captured": 3,
        "age_ms": {"p50": 1.5, "max": None},
        "stages": {},
    }
    assert os.listdir(tmp_path) == ["stats.json"]


def test_folder_that_went_away_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"stats\.json: cannot be written: No such file"):
        write_stats(tmp_path / "gone" / "stats.json", {})


def test_failure_leaves_the_old_figures_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.mkdir()
    with pytest.raises(OutputError):
        write_stats(path, {"captured": 1})
    assert os.listdir(tmp_path) == ["stats.json"]
