"""Progress: a bar or a status line, only on a terminal and only on standard error."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.output.progress import Progress, status_text
from pipeline.source import Source
from pipeline.types import Frame

from .conftest import make_result

STATS = {"fps": 29.96, "age_ms": {"p50": 41.7}, "dropped": 3}


class Endless(Source[Frame]):
    """A source that is never read: of `frames` frames, or without an end."""

    camera, live = "front", True

    def __init__(self, frames: int | None = None) -> None:
        self.frames = frames

    def read(self) -> Frame | None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def terminal() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=120, color_system=None), text


def test_bar_counts_to_the_end_and_shows_rate_and_losses() -> None:
    console, text = terminal()
    stats = {"processed": 0, "dropped": 0, "failed": 2, "fps": 51.26}
    bar = Progress(lambda: stats, console=console)
    bar.start(Endless(25))
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
    line = Progress(lambda: STATS, console=console)
    line.start(Endless())
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
    line = Progress(lambda: {**STATS, "dropped": 0}, console=console)
    line.start(Endless())
    result = make_result(1, classify=False)
    object.__setattr__(result.detections, "labels", ("[red]x[/]",) * 9)
    line.write(result)
    line.close()
    assert "[red]x[/]" in text.getvalue()


def test_bar_ends_at_the_limit_of_frames() -> None:
    console, text = terminal()
    bar = Progress(lambda: {"processed": 7}, max_frames=7, console=console)
    bar.start(Endless(25))
    bar.close()
    assert "7/7" in text.getvalue()


@pytest.mark.parametrize("frames", [None, 10], ids=["camera", "file"])
@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "no terminal"])
def test_nothing_is_shown_without_a_viewer(frames: int | None, quiet: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=quiet)
    progress = Progress(dict, quiet=quiet, console=console)
    progress.start(Endless(frames))
    progress.write(make_result())
    progress.close()
    assert text.getvalue() == ""


def test_progress_is_not_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    bar = Progress(dict, console=Console(stderr=True, force_terminal=True))
    bar.start(Endless(2))
    bar.write(make_result())
    bar.close()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "frames" in captured.err
