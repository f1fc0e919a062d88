"""Recordings played in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.playback import Paced
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from .conftest import FRAMES


class Clip(Source[Frame]):
    """Frames of a recording with given times, or of a source that is not one."""

    camera, live = "clip", False

    def __init__(self, times_ms: Sequence[float], *, recorded: bool = True) -> None:
        self._times_ms = list(times_ms)
        self._recorded = recorded
        self.frames, self.fps = len(times_ms), 25.0

    def read(self) -> Frame | None:
        if not self._times_ms:
            return None
        stamp_ns = round(self._times_ms.pop(0) * 1e6)
        image = np.zeros((2, 2, 3), np.uint8)
        return Frame(image, stamp_ns, 0, self.camera, recorded=self._recorded)

    def close(self) -> None:
        self._times_ms.clear()


def read_ms(source: Source[Frame]) -> list[float]:
    """When frames were read, relative to the first."""
    times = []
    while (frame := source.read()) is not None:
        times.append(frame.read_ns / 1e6)
    return [now - times[0] for now in times]


def test_frames_come_at_the_distances_of_their_stamps() -> None:
    source = Paced(Clip([500, 540, 540, 660]))
    assert (source.camera, source.live, source.frames, source.fps) == ("clip", False, 4, 25.0)
    for came, due in zip(read_ms(source), [0, 40, 40, 160], strict=True):
        assert came >= due - 1


def test_reader_that_is_late_does_not_hurry_the_next_frames() -> None:
    source = Paced(Clip([0, 50, 100]))
    first, _ = source.read(), threading.Event().wait(0.2)
    second, third = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert third is not None
    assert third.read_ns - second.read_ns >= 49e6


def test_stamp_that_goes_back_does_not_wait() -> None:
    started = time.monotonic()
    assert len(read_ms(Paced(Clip([60_000, 0, 1])))) == 3
    assert time.monotonic() - started < 30


def test_frames_that_are_not_recorded_pass_at_once() -> None:
    started = time.monotonic()
    assert len(read_ms(Paced(Clip([0, 60_000], recorded=False)))) == 2
    assert time.monotonic() - started < 30


def test_closing_ends_the_wait() -> None:
    source = Paced(Clip([0, 60_000]))
    source.read()
    threading.Timer(0.05, source.close).start()
    assert source.read() is None


@pytest.mark.parametrize(("fps", "least_s"), [(None, 1.95), (100.0, 0.39)], ids=["own", "chosen"])
def test_file_is_played_at_its_own_or_a_chosen_rate(
    video: Path, fps: float | None, least_s: float
) -> None:
    started = time.monotonic()
    with open_source(str(video), real_time=True, fps=fps) as source:
        times = read_ms(source)
    assert len(times) == FRAMES
    assert time.monotonic() - started >= least_s


def test_live_source_is_not_played() -> None:
    with open_source("scene:?size=64x48&fps=100", real_time=True) as source:
        assert type(source).__name__ == "Scene"
