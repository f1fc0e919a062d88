"""The figures of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.output.files import write_stats


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


def test_removed_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"stats\.json: cannot be written: No such file"):
        write_stats(tmp_path / "gone" / "stats.json", {})


def test_failure_leaves_the_old_figures_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.mkdir()
    with pytest.raises(OutputError):
        write_stats(path, {"captured": 1})
    assert os.listdir(tmp_path) == ["stats.json"]


def test_a_pipe_gets_the_figures_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_stats(path, {"captured": 1})
        assert json.loads(os.read(reader, 1000)) == {"captured": 1}
    finally:
        os.close(reader)
    assert path.is_fifo()


def test_behind_a_link_the_figures_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "stats.json"
    link.symlink_to("there/real.json")
    write_stats(link, {"captured": 1})
    assert link.is_symlink()
    assert json.loads((tmp_path / "there" / "real.json").read_text()) == {"captured": 1}
