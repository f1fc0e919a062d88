"""A pipeline without steps passes frames and results through, counts them, and ends on request."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.engine import Pipeline
from pipeline.errors import CaptureError, FrameError, StageError
from pipeline.source import Source
from pipeline.types import Detections, Frame, Header, Result


class Script(Source[Frame]):
    """A source that plays a list of frames' numbers and errors; then it ends."""

    camera = "front"

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


def test_every_frame_of_a_file_becomes_a_result_without_objects():
    source = Script(range(50))
    pipeline = Pipeline(source)
    with pipeline:
        results = list(pipeline)
    assert [result.header.seq for result in results] == list(range(50))
    assert all(len(result.detections) == 0 for result in results)
    assert results[0].image.shape == (4, 6, 3)
    assert source.closed.is_set()
    assert source.done_count == 50
    assert pipeline.stats()["processed"] == 50
    assert adds_up(pipeline.stats())


def test_results_of_another_process_pass_through_unchanged():
    sent = [Result(Header("front", i, i, 6, 4), Detections.empty(("cup",))) for i in range(5)]

    class Results(Source[Result]):
        camera, live, left = "front", False, iter(sent)

        def read(self):
            return next(self.left, None)

        def close(self):
            pass

    with Pipeline(Results()) as pipeline:
        assert all(got is one for got, one in zip(pipeline, sent, strict=True))
    assert adds_up(pipeline.stats())


def test_a_live_source_gives_the_newest_to_a_slow_reader():
    source = Script(range(50), live=True)
    pipeline = Pipeline(source)
    with pipeline:
        assert source.ended.wait(60)
        assert [result.header.seq for result in pipeline] == [49]
    assert pipeline.stats()["dropped"] == 49
    assert adds_up(pipeline.stats())


def test_capacity_is_the_number_of_frames_that_wait():
    source = Script(range(50), live=True)
    pipeline = Pipeline(source, capacity=3)
    with pipeline:
        assert source.ended.wait(60)
        assert [result.header.seq for result in pipeline] == [47, 48, 49]


def test_a_frame_that_cannot_be_read_is_counted_and_skipped():
    pipeline = Pipeline(Script([0, FrameError("torn"), 2]))
    with pipeline:
        assert [result.header.seq for result in pipeline] == [0, 2]
    assert pipeline.stats()["failed"] == 1
    assert adds_up(pipeline.stats())


def test_an_error_of_the_source_is_raised_after_the_frames_before_it():
    pipeline = Pipeline(Script([0, CaptureError("gone")]))
    with pipeline:
        assert next(pipeline).header.seq == 0
        with pytest.raises(StageError) as raised:
            next(pipeline)
    assert isinstance(raised.value.__cause__, CaptureError)


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
def test_it_ends_after_max_frames(every_frame):
    pipeline = Pipeline(Script(range(1000)), every_frame=every_frame, max_frames=1)
    with pipeline:
        assert len(list(pipeline)) == 1
    assert adds_up(pipeline.stats())


def test_stop_ends_it_while_no_frame_comes():
    class Silent(Script):
        def read(self):
            self.closed.wait()

    pipeline = Pipeline(Silent([], live=True))
    with pipeline:
        threading.Timer(0.05, pipeline.stop).start()
        assert list(pipeline) == []
    assert adds_up(pipeline.stats())


def test_it_ends_after_duration_s():
    class Silent(Script):
        def read(self):
            self.closed.wait()

    pipeline = Pipeline(Silent([], live=True), duration_s=0.05)
    with pipeline:
        assert list(pipeline) == []


def test_statistics_have_the_same_form_as_with_steps():
    with Pipeline(Script(range(10))) as pipeline:
        for _ in pipeline:
            pipeline.record_output(2_000_000)
    stats = pipeline.stats()
    assert set(stats["age_ms"]) == {"p50", "p95", "p99", "max"}
    assert set(stats["stages"]) == {"capture", "output"}
    assert stats["stages"]["output"]["p50_ms"] == pytest.approx(2.0)
    assert all(stage["age_ms"]["p50"] > 0 for stage in stats["stages"].values())
    assert stats["fps"] > 0
