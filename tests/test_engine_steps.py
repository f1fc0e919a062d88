"""Steps of the pipeline: their order, their times, and what they get of each frame."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from pipeline.engine import Pipeline
from pipeline.errors import RunError, StageError
from pipeline.inference.session import ModelStep
from pipeline.source import Source
from pipeline.step import Step
from pipeline.types import Detections, Frame, Header, Result

WAIT_S = 30.0


class Script(Source[Frame]):
    """`count` frames, of the cameras in turn."""

    def __init__(self, count, *, live=False, cameras=("front",)):
        self.live = live
        self.camera = cameras[0]
        self.frames = count
        self.cameras = cameras
        self.seq = 0

    def read(self):
        if self.seq == self.frames:
            return None
        seq, self.seq = self.seq, self.seq + 1
        image = np.full((4, 6, 3), seq % 256, np.uint8)
        return Frame(image, time.time_ns(), seq, self.cameras[seq % len(self.cameras)])

    def close(self):
        pass


class Record(Step):
    """Records the frames that it sees, and what was known of each."""

    name = "record"
    in_order = True

    def __init__(self):
        self.seen = []
        self.threads = set()

    def process(self, frame, result):
        self.seen.append((result.header.camera, result.header.seq))
        self.threads.add(threading.get_ident())
        return result


class Parallel(Step):
    """A step without order; `pause` is called with the frame's number."""

    in_order = False

    def __init__(self, name="detect", pause=lambda number: None):
        self.name = name
        self.pause = pause
        self.warmed_up_for = None

    def warm_up(self, threads):
        self.warmed_up_for = threads

    def process(self, frame, result):
        self.pause(result.header.seq)
        boxes = np.full((1, 4), result.header.seq, np.float32)
        one, zero = np.ones(1, np.float32), np.zeros(1, np.int32)
        return dataclasses.replace(result, detections=Detections(boxes, one, zero, ("thing",)))


def overtaking():
    """A pause that lets frame 4 overtake frame 3."""
    overtaken = threading.Event()

    def pause(number):
        if number == 3:
            assert overtaken.wait(WAIT_S), "no other worker continued meanwhile"
        if number == 4:
            overtaken.set()

    return pause


def test_an_ordered_step_gets_its_frames_in_order_though_workers_overtake_each_other():
    record = Record()
    with Pipeline(
        Script(40, cameras=("left", "right")),
        Parallel(pause=overtaking()),
        steps=[record],
        threads=3,
    ) as pipeline:
        seqs = [result.header.seq for result in pipeline]
    assert seqs == list(range(40))
    assert [seq for _, seq in record.seen] == list(range(40))
    assert len(record.threads) == 1


def test_an_ordered_step_can_run_between_two_parallel_ones():
    record, later = Record(), Parallel("classify", overtaking())
    steps = [Parallel(pause=overtaking()), record, later]
    with Pipeline(Script(40), steps=steps, threads=3) as pipeline:
        results = list(pipeline)
    assert [result.header.seq for result in results] == list(range(40))
    assert [seq for _, seq in record.seen] == list(range(40))
    assert all(list(r.stage_ns) == ["detect", "record", "classify"] for r in results)
    assert later.warmed_up_for == 1


def test_detector_and_classifier_are_the_first_steps():
    order = []
    steps = {name: Parallel(name, lambda _, name=name: order.append(name)) for name in "abc"}
    with Pipeline(Script(1), steps["a"], steps["b"], [steps["c"]]) as pipeline:
        list(pipeline)
    assert order == ["a", "b", "c"]


def test_steps_run_on_results_of_another_process_without_their_frames():
    class Results(Script):
        def read(self):
            frame = super().read()
            return frame and Result(frame.header, Detections.empty(("cup",)))

    record = Record()
    with Pipeline(Results(10), steps=[record]) as pipeline:
        assert all(result.frame is None for result in pipeline)
    assert len(record.seen) == 10


def test_each_step_has_its_time_in_the_statistics_and_in_the_result():
    with Pipeline(Script(10), Parallel(), steps=[Record()]) as pipeline:
        for result in pipeline:
            assert result.stage_ns.keys() == {"detect", "record"}
    assert {"capture", "detect", "record"} <= pipeline.stats()["stages"].keys()


def test_a_step_that_times_a_part_of_itself_is_listed_without_that_part():
    class Parts(Parallel):
        def process(self, frame, result):
            result = super().process(frame, result)
            return dataclasses.replace(result, stage_ns={**result.stage_ns, "part": 10**15})

    with Pipeline(Script(1), Parts()) as pipeline:
        (result,) = pipeline
    assert result.stage_ns["part"] == 10**15
    assert result.stage_ns["detect"] < 0  # the part is longer than the whole here
    assert {"part", "detect"} <= pipeline.stats()["stages"].keys()


@pytest.mark.parametrize("every_frame", [True, False], ids=["every-frame", "latest"])
def test_counts_add_up_if_an_ordered_step_fails(every_frame):
    class Failing(Record):
        name = "track"

        def process(self, frame, result):
            if result.header.seq >= 5:
                raise ZeroDivisionError("no time has passed")
            return result

    with (
        Pipeline(
            Script(50), Parallel(), steps=[Failing()], threads=3, every_frame=every_frame
        ) as pipeline,
        pytest.raises(StageError, match="stage track: ZeroDivisionError: no time"),
    ):
        list(pipeline)
    stats = pipeline.stats()
    assert stats["failed"] == 1
    assert stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


def test_a_model_step_says_that_it_needs_the_image():
    header = Header("front", 7, 0, 6, 4)
    with pytest.raises(RunError, match="frame 7 of front: its image is needed to detect"):
        ModelStep._image_of(Parallel(), None, Result(header, Detections.empty(())))
