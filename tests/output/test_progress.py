"""Progress: for eyes alone, and on standard error alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.output.progress import ProgressBar, StatusLine, open_progress, status_text

from .conftest import make_result

STATS = {"fps": 29.96, "age_ms": {"p50": 41.7}, "dropped": 3}


def terminal() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=120, color_system=None), text


def test_bar_counts_to_the_end_and_shows_rate_and_losses() -> None:
    console, text = terminal()
    stats = {"processed": 0, "dropped": 0, "failed": 2, "fps": 51.26}
    bar = open_progress(25, lambda: stats, console=console)
    assert isinstance(bar, ProgressBar)
    for number in range(23):
        stats["processed"] += 1
        bar.write(make_result(seq=number))
    bar.close()
    bar.close()
    assert "25/25" in text.getvalue()
    assert "51.3 fps" in text.getvalue()
    assert "(2 lost)" in text.getvalue()


def test_status_line_of_a_source_without_end() -> None:
    console, text = terminal()
    line = open_progress(None, lambda: STATS, console=console)
    assert isinstance(line, StatusLine)
    line.write(make_result(3))
    line.close()
    line.close()
    assert "front  30.0 fps  age 42 ms  dropped 3" in text.getvalue()


def test_status_counts_the_objects_by_name() -> None:
    text = status_text(make_result(12, seed=1), STATS)
    found = make_result(12, seed=1).detections
    for class_id in set(found.class_ids.tolist()):
        count = found.class_ids.tolist().count(class_id)
        assert f"{count} {found.labels[class_id]}" in text
    assert status_text(make_result(0), STATS).endswith("nothing")


def test_figures_that_are_not_there_yet_do_no_harm() -> None:
    assert "0.0 fps" in status_text(make_result(1), {})


def test_labels_that_look_like_markup_are_shown_as_they_are() -> None:
    console, text = terminal()
    line = StatusLine(lambda: {**STATS, "dropped": 0}, console)
    result = make_result(1, classify=False)
    object.__setattr__(result.detections, "labels", ("[red]x[/]",) * 9)
    line.write(result)
    line.close()
    assert "[red]x[/]" in text.getvalue()


@pytest.mark.parametrize("frames", [None, 10], ids=["camera", "file"])
def test_nothing_is_shown_where_nobody_looks(frames: int | None) -> None:
    console, text = terminal()
    assert open_progress(frames, dict, quiet=True, console=console) is None
    plain = Console(file=io.StringIO(), force_terminal=False)
    assert open_progress(frames, dict, console=plain) is None
    assert text.getvalue() == ""


def test_progress_is_not_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(2, dict)
    bar.write(make_result())
    bar.close()
    assert capfd.readouterr().out == ""
