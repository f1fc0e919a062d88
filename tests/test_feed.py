"""A feed hands on what a source gives, counts it, and ends when it is to."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.errors import CaptureError, FrameError, StageError
from pipeline.feed import Feed
from pipeline.types import Frame


class Script:
    """A source that plays a list of frames' numbers and errors; then it ends."""

    def __init__(self, items, *, live=False):
        self.live = live
        self.items = iter(items)
        self.closed = threading.Event()
        self.ended = threading.Event()
        self.done_count = 0

    def read(self):
        item = next(self.items, None)
        if item is None:
            self.ended.set()
        if isinstance(item, Exception):
            raise item
        return None if item is None else Frame(np.zeros((4, 6, 3), np.uint8), item, item, "front")

    def done(self):
        self.done_count += 1

    def close(self):
        self.closed.set()


def adds_up(stats):
    return stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


def test_every_frame_of_a_file_is_handed_on_as_a_result_without_objects():
    source = Script(range(50))
    feed = Feed(source)
    with feed:
        results = list(feed)
    assert [result.header.seq for result in results] == list(range(50))
    assert all(len(result.detections) == 0 for result in results)
    assert results[0].image.shape == (4, 6, 3)
    assert source.closed.is_set()
    assert source.done_count == 50
    assert feed.stats()["processed"] == 50
    assert adds_up(feed.stats())


def test_a_live_source_gives_the_newest_to_a_slow_reader():
    source = Script(range(50), live=True)
    feed = Feed(source)
    with feed:
        assert source.ended.wait(60)
        assert [result.header.seq for result in feed] == [49]
    assert feed.stats()["dropped"] == 49
    assert adds_up(feed.stats())


def test_so_many_wait_as_there_is_room_for():
    source = Script(range(50), live=True)
    feed = Feed(source, capacity=3)
    with feed:
        assert source.ended.wait(60)
        assert [result.header.seq for result in feed] == [47, 48, 49]


def test_a_frame_that_cannot_be_read_is_counted_and_passed_over():
    feed = Feed(Script([0, FrameError("torn"), 2]))
    with feed:
        assert [result.header.seq for result in feed] == [0, 2]
    assert feed.stats()["failed"] == 1
    assert adds_up(feed.stats())


def test_what_breaks_the_source_is_raised_behind_what_came_before():
    feed = Feed(Script([0, CaptureError("gone")]))
    with feed:
        assert next(feed).header.seq == 0
        with pytest.raises(StageError) as raised:
            next(feed)
    assert isinstance(raised.value.__cause__, CaptureError)


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
def test_it_ends_after_so_many(every_frame):
    feed = Feed(Script(range(1000)), every_frame=every_frame, max_frames=1)
    with feed:
        assert len(list(feed)) == 1
    assert adds_up(feed.stats())


def test_it_ends_when_it_is_stopped_while_nothing_comes():
    class Silent(Script):
        def read(self):
            self.closed.wait()

    feed = Feed(Silent([], live=True))
    with feed:
        threading.Timer(0.05, feed.stop).start()
        assert list(feed) == []
    assert adds_up(feed.stats())


def test_it_ends_after_so_many_seconds():
    class Silent(Script):
        def read(self):
            self.closed.wait()

    feed = Feed(Silent([], live=True), duration_s=0.05)
    with feed:
        assert list(feed) == []


def test_statistics_have_the_form_of_a_pipelines():
    with Feed(Script(range(10))) as feed:
        for _ in feed:
            feed.record_output(2_000_000)
    stats = feed.stats()
    assert set(stats["age_ms"]) == {"p50", "p95", "p99", "max"}
    assert set(stats["stages"]) == {"capture", "output"}
    assert stats["stages"]["output"]["p50_ms"] == pytest.approx(2.0)
    assert all(stage["age_ms"]["p50"] > 0 for stage in stats["stages"].values())
    assert stats["fps"] > 0
