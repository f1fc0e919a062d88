"""The pipeline: order, counts under every policy, failures, ends.

Sources and steps here are small ones made for the case, so that every race can be forced; the
real ones run in `tests/test_end_to_end.py`.
"""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from pipeline.engine import Pipeline
from pipeline.errors import CaptureError, ConfigError, FrameError, StageError
from pipeline.source import Source
from pipeline.step import Step
from pipeline.types import Classifications, Detections, Frame

WAIT_S = 30.0


class Script(Source[Frame]):
    """Frames on demand; `script` maps a number to what happens instead of that frame."""

    camera = "test"

    def __init__(self, count, *, live=False, script=None, gate=None):
        self.count, self.live, self.script, self.gate = count, live, script or {}, gate
        self.seq = 0
        self.closed = threading.Event()

    def read(self):
        if self.gate:
            self.gate(self.seq)
        if self.seq >= self.count or self.closed.is_set():
            return None
        seq, self.seq = self.seq, self.seq + 1
        if seq in self.script:
            raise self.script[seq]
        image = np.full((8, 8, 3), seq % 256, np.uint8)
        return Frame(image, time.time_ns(), seq, "test")

    def close(self):
        self.closed.set()


class Finder(Step):
    """One box a frame whose score is the frame's own number; `pause` is called with it."""

    name = "detect"
    in_order = False
    labels = ("thing",)

    def __init__(self, pause=None):
        self.pause = pause
        self.threads = None
        self.seen = []

    def warm_up(self, threads):
        self.threads = threads

    def process(self, frame, result):
        number = int(frame.image[0, 0, 0])
        self.seen.append(number)
        if self.pause:
            self.pause(number)
        boxes = np.array([[0, 0, 4, 4]], np.float32)
        score = np.array([number], np.float32)
        detections = Detections(boxes, score, np.zeros(1, np.int32), self.labels)
        return dataclasses.replace(result, detections=detections)


class Namer(Step):
    name = "classify"
    in_order = False
    labels = ("a", "b")

    def process(self, frame, result):
        count = len(result.detections)
        ids = np.zeros((count, 1), np.int32)
        classes = Classifications(ids, np.ones((count, 1), np.float32), self.labels)
        return dataclasses.replace(result, classifications=classes)


def accounts(stats):
    return stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


def test_every_frame_gives_one_result_in_order_though_workers_overtake_each_other():
    overtaken = threading.Event()

    def pause(number):
        if number == 3:
            assert overtaken.wait(WAIT_S), "no other worker continued meanwhile"
        if number == 4:
            overtaken.set()

    finder = Finder(pause)
    with Pipeline(Script(40), finder, Namer(), threads=3) as pipeline:
        results = list(pipeline)
    assert [r.header.seq for r in results] == list(range(40))
    assert [int(r.detections.scores[0]) for r in results] == list(range(40))
    assert all(len(r.classifications) == 1 for r in results)
    assert sorted(finder.seen) == list(range(40))
    stats = pipeline.stats()
    assert (stats["captured"], stats["processed"]) == (40, 40)
    assert accounts(stats)


def test_newest_frame_wins_when_detector_is_slow():
    """While frame 0 is in the detector, 1 to 9 arrive: only 9 is looked at next."""
    all_read, in_detector = threading.Event(), threading.Event()

    def gate(seq):
        if seq == 1:
            assert in_detector.wait(WAIT_S)
        if seq == 10:
            all_read.set()

    def pause(number):
        if number == 0:
            in_detector.set()
            assert all_read.wait(WAIT_S)

    with Pipeline(Script(10, live=True, gate=gate), Finder(pause)) as pipeline:
        seqs = [r.header.seq for r in pipeline]
    assert seqs == [0, 9]
    stats = pipeline.stats()
    assert (stats["captured"], stats["processed"], stats["dropped"]) == (10, 2, 8)


def test_the_newest_frame_of_each_camera_is_served_in_turn():
    """While frame 0 is in the detector, 1 to 9 arrive from three cameras: each gets its turn."""
    all_read, in_detector = threading.Event(), threading.Event()

    class ThreeCameras(Script):
        def read(self):
            frame = super().read()
            # Camera "a" sends far more often than the others.
            return frame and dataclasses.replace(frame, camera={3: "b", 5: "c"}.get(frame.seq, "a"))

    def gate(seq):
        if seq == 1:
            assert in_detector.wait(WAIT_S)
        if seq == 10:
            all_read.set()

    def pause(number):
        if number == 0:
            in_detector.set()
            assert all_read.wait(WAIT_S)

    with Pipeline(ThreeCameras(10, live=True, gate=gate), Finder(pause)) as pipeline:
        found = [(r.header.camera, r.header.seq) for r in pipeline]
    assert found == [("a", 0), ("a", 9), ("b", 3), ("c", 5)]
    stats = pipeline.stats()
    assert (stats["captured"], stats["processed"], stats["dropped"]) == (10, 4, 6)


def test_a_slow_consumer_holds_back_inference_instead_of_getting_stale_results():
    """With results untaken, at most one frame is in flight; the next one is the newest."""
    first_out, read_on = threading.Event(), threading.Event()

    def gate(seq):
        if seq == 1:
            assert first_out.wait(WAIT_S)
        if seq == 20:
            read_on.set()

    finder = Finder(lambda number: first_out.set())
    with Pipeline(Script(20, live=True, gate=gate), finder) as pipeline:
        assert read_on.wait(WAIT_S)  # the first result is not taken yet
        assert finder.seen == [0]
        assert [r.header.seq for r in pipeline] == [0, 19]
    assert accounts(pipeline.stats())


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
def test_counts_add_up_under_every_policy(live, every_frame):
    script = {3: FrameError("frame 3: torn"), 7: FrameError("frame 7: torn")}
    source = Script(30, live=live, script=script)
    with Pipeline(source, Finder(), Namer(), every_frame=every_frame) as pipeline:
        results = list(pipeline)
    stats = pipeline.stats()
    assert accounts(stats)
    assert stats["captured"] == 30
    assert stats["failed"] == 2
    assert stats["processed"] == len(results)
    assert stats["dropped"] == (0 if every_frame else 28 - len(results))
    assert source.closed.is_set()


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
def test_counts_add_up_when_the_consumer_leaves_early(every_frame):
    with Pipeline(Script(500), Finder(), every_frame=every_frame, threads=2) as pipeline:
        for result in pipeline:
            if result.header.seq >= 5:
                break
    assert accounts(pipeline.stats())


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
def test_a_detector_that_raises_ends_the_iteration_with_its_cause(every_frame):
    def pause(number):
        if number >= 5:
            raise MemoryError("no room")

    source = Script(50)
    with Pipeline(source, Finder(pause), every_frame=every_frame, threads=2) as pipeline:
        seqs = []
        with pytest.raises(StageError, match="stage detect: MemoryError: no room") as caught:
            seqs.extend(result.header.seq for result in pipeline)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert seqs == sorted(seqs)
    assert not every_frame or seqs == list(range(5)) or seqs == list(range(len(seqs)))
    assert pipeline.stats()["failed"] >= 1
    assert accounts(pipeline.stats())


def test_an_error_of_the_camera_is_raised_after_the_frames_before_it():
    source = Script(50, script={6: CaptureError("camera 0: unplugged")})
    seqs = []
    with (
        Pipeline(source, Finder(), Namer(), threads=2) as pipeline,
        pytest.raises(StageError, match="camera 0: unplugged") as caught,
    ):
        seqs.extend(result.header.seq for result in pipeline)
    assert isinstance(caught.value.__cause__, CaptureError)
    assert seqs == list(range(6))
    assert accounts(pipeline.stats())


@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
def test_max_frames_gives_exactly_that_many(live):
    with Pipeline(Script(10**9, live=live), Finder(), max_frames=7) as pipeline:
        assert len(list(pipeline)) == 7
    stats = pipeline.stats()
    assert accounts(stats)
    assert live or stats["captured"] == 7


def test_stop_ends_the_iteration_after_the_frames_in_flight(monkeypatch):
    monkeypatch.setattr("pipeline.engine.DRAIN_S", WAIT_S)
    source = Script(10_000_000)
    seqs = []
    with Pipeline(source, Finder(), threads=2) as pipeline:
        for result in pipeline:
            seqs.append(result.header.seq)
            if len(seqs) == 20:
                pipeline.stop()
    stats = pipeline.stats()
    assert seqs == list(range(len(seqs)))
    assert stats["dropped"] == 0
    assert stats["captured"] == stats["processed"] == len(seqs)


def test_duration_ends_a_source_that_never_sends():
    silent = threading.Event()
    source = Script(5, live=True, gate=lambda seq: silent.wait(WAIT_S))
    started = time.monotonic()
    with Pipeline(source, Finder(), duration_s=0.2) as pipeline:
        assert list(pipeline) == []
        silent.set()
    assert time.monotonic() - started < WAIT_S
    assert accounts(pipeline.stats())


def test_a_source_is_closed_if_the_detector_cannot_start():
    class Broken(Finder):
        def warm_up(self, threads):
            raise MemoryError("no room for the network")

    source = Script(3)
    with pytest.raises(MemoryError), Pipeline(source, Broken()):
        pass
    assert source.closed.is_set()


def test_a_detector_that_never_answers_is_left_behind_in_time_and_counted(crowding, stalls, caplog):
    busy, for_ever = threading.Event(), threading.Event()

    def pause(number):
        busy.set()
        for_ever.wait()

    source = Script(50)
    with Pipeline(source, Finder(pause), threads=2) as pipeline:
        assert busy.wait(WAIT_S)
        stopped = time.monotonic() - stalls.total_s()
        pipeline.stop()
        assert list(pipeline) == []
    assert time.monotonic() - stalls.total_s() - stopped < 2.0 * crowding()
    assert "stage detect did not end in time and is left behind" in caplog.text
    stats = pipeline.stats()
    assert accounts(stats)
    left_behind = [thread for thread in threading.enumerate() if thread.name == "detect"]
    for_ever.set()  # what it returns now is too late to be counted twice
    for thread in left_behind:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert pipeline.stats()["dropped"] == stats["dropped"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_model_calls_run_at_once_than_there_are_threads(threads):
    running, most, lock = [], [], threading.Lock()
    all_busy = threading.Event()

    def enter(number=None):
        with lock:
            running.append(1)
            most.append(len(running))
            if len(running) == threads:
                all_busy.set()
        assert all_busy.wait(WAIT_S), "that many never ran at once"
        threading.Event().wait(0.002)
        with lock:
            running.pop()

    class SlowNamer(Namer):
        def process(self, frame, result):
            enter()
            return super().process(frame, result)

    with Pipeline(Script(40), Finder(enter), SlowNamer(), threads=threads) as pipeline:
        assert len(list(pipeline)) == 40
    assert max(most) == threads


@pytest.mark.parametrize(
    "limits",
    [{"threads": 0}, {"threads": -1}, {"max_frames": 0}, {"duration_s": -1.0}],
    ids=lambda limits: next(iter(limits)),
)
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(ConfigError, match=f"{next(iter(limits))}: expected"):
        Pipeline(Script(1), Finder(), **limits)


def test_wrong_use_is_refused_with_the_right_one():
    pipeline = Pipeline(Script(3), Finder())
    assert pipeline.stats()["seconds"] == 0
    with pytest.raises(RuntimeError, match="with Pipeline"):
        next(iter(pipeline))
    with pipeline:
        assert len(list(pipeline)) == 3
    with pytest.raises(RuntimeError, match="runs once"), pipeline:
        pass


def test_the_policy_decides_how_the_cores_are_used():
    for every_frame, threads in ((True, 1), (False, 4)):
        finder = Finder()
        with Pipeline(Script(3), finder, every_frame=every_frame, threads=4) as pipeline:
            list(pipeline)
        assert finder.threads == threads


def test_frames_reach_the_consumer_read_only_and_with_their_own_stamp():
    with Pipeline(Script(3), Finder()) as pipeline:
        for result in pipeline:
            assert not result.image.flags.writeable
            assert 0 <= time.time_ns() - result.header.stamp_ns < WAIT_S * 1e9


def test_statistics_have_the_promised_form():
    with Pipeline(Script(10), Finder(), Namer()) as pipeline:
        for _ in pipeline:
            pipeline.record_output(2_000_000)
    stats = pipeline.stats()
    assert set(stats["age_ms"]) == {"p50", "p95", "p99", "max"}
    assert set(stats["stages"]) == {"capture", "detect", "classify", "output"}
    assert stats["stages"]["output"]["p50_ms"] == pytest.approx(2.0)
    assert all(stage["age_ms"]["p99"] > 0 for stage in stats["stages"].values())
    assert stats["rss_mb"] > 0
    assert stats["fps"] > 0
