"""A file played as a camera would give it."""

from __future__ import annotations

import threading
import time

import numpy as np

from pipeline.capture.paced import DEFAULT_FPS, Paced
from pipeline.source import Source
from pipeline.types import Frame


class Quick(Source[Frame]):
    camera, live, frames = "file", False, None

    def __init__(self, fps):
        self.fps = fps
        self.seq = -1

    def read(self):
        self.seq += 1
        return Frame(np.zeros((2, 2, 3), np.uint8), time.time_ns(), self.seq, self.camera)

    def close(self):
        pass


def stamps(source, count):
    return [source.read().stamp_ns for _ in range(count)]


def test_frames_never_come_faster_than_the_rate_and_are_stamped_when_they_come():
    times = stamps(Paced(Quick(100.0)), 6)
    assert times[-1] - times[0] >= 5 * 10_000_000 - 1_000_000


def test_a_rate_that_is_asked_for_wins_and_pictures_have_one():
    assert Paced(Quick(10.0), 50.0).fps == 50.0
    assert Paced(Quick(10.0)).fps == 10.0
    assert Paced(Quick(None)).fps == DEFAULT_FPS


def test_closing_ends_the_wait():
    source = Paced(Quick(0.01))
    source.read()
    threading.Timer(0.05, source.close).start()
    assert source.read() is None
