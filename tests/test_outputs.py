"""Outputs: fed from one table, slow ones from threads of their own, failures and ends."""

from __future__ import annotations

import json
import threading
import time

import cv2
import numpy as np
import pytest

import pipeline
from pipeline.errors import InputError, OutputError
from pipeline.output.output import Output, Stop
from pipeline.outputs import OUTPUTS, WAITING, Outputs, deliver
from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.transport import ResultSubscription
from pipeline.types import Frame

WAIT_S = 30.0


class Frames(Source[Frame]):
    """`count` frames, as fast as they are read, or one every `period_s` seconds."""

    camera = "front"

    def __init__(self, count, *, live=False, period_s=0.0):
        self.frames, self.live, self._period_s = count, live, period_s
        self.fps = 20.0
        self._seq = 0
        self._closed = threading.Event()

    def read(self):
        if self._seq == self.frames or self._closed.wait(self._period_s):
            return None
        image = np.full((48, 64, 3), self._seq * 4 % 256, np.uint8)
        self._seq += 1
        return Frame(image, time.time_ns(), self._seq - 1, self.camera)

    def close(self):
        self._closed.set()


class Recorder(Output):
    """Keeps the numbers of what is written; `before` is called first."""

    def __init__(self, *, may_block=False, wants_images=False, before=lambda seq: None):
        self.may_block, self.wants_images, self._before = may_block, wants_images, before
        self.written, self.closed = [], 0

    def write(self, result):
        self._before(result.header.seq)
        self.written.append(result.header.seq)

    def close(self):
        self.closed += 1


def run(source, *outputs, **limits):
    """Run a pipeline without models into outputs; returns its statistics and theirs."""
    together = Outputs(outputs)
    with pipeline.Pipeline(source, **limits) as results, together:
        deliver(results, together)
    return {**results.stats(), **together.counts()}


def test_a_blocked_output_of_a_live_source_delays_no_result_and_its_drops_are_counted():
    gate = threading.Event()
    slow = Recorder(may_block=True, before=lambda seq: gate.wait(WAIT_S))
    fast = Recorder(before=lambda seq: gate.set() if seq == 59 else None)
    stats = run(Frames(60, live=True, period_s=0.005), slow, fast, every_frame=True)
    assert fast.written == list(range(60))
    assert stats["Recorder"]["written"] == len(slow.written)
    assert stats["Recorder"]["written"] + stats["Recorder"]["dropped"] == 60
    assert slow.written[-WAITING:] == list(range(60))[-WAITING:]
    assert stats["Recorder"]["dropped"] >= 60 - 2 - WAITING


def test_a_slow_output_of_a_file_gets_every_result_in_order():
    pause = threading.Event()
    slow = Recorder(may_block=True, before=lambda seq: pause.wait(0.01))
    stats = run(Frames(40), slow)
    assert slow.written == list(range(40))
    assert stats["Recorder"] == {"written": 40, "dropped": 0}
    assert slow.closed == 1


def test_an_output_that_wants_nothing_is_not_written_to():
    class Page(Recorder):
        def wants(self, camera):
            return camera == "front" and len(self.written) < 3

    page = Page()
    run(Frames(10), page)
    assert page.written == [0, 1, 2]


def test_outputs_of_one_kind_are_counted_apart():
    stats = run(Frames(5), Recorder(may_block=True), Recorder(may_block=True))
    assert stats["Recorder"] == stats["Recorder 2"] == {"written": 5, "dropped": 0}


def test_a_blocked_output_is_left_behind_after_a_signal(caplog):
    gate = threading.Event()
    outputs = Outputs([Recorder(may_block=True, before=lambda seq: gate.wait(WAIT_S))])
    with pipeline.Pipeline(Frames(1)) as results:
        deliver(results, outputs)
    outputs.hurry()
    started_s = time.monotonic()
    outputs.close()
    assert time.monotonic() - started_s < WAIT_S / 2
    assert "Recorder: did not finish within 1 s and is left behind" in caplog.text
    gate.set()


@pytest.mark.parametrize("may_block", [False, True], ids=["same thread", "own thread"])
def test_an_output_that_fails_ends_the_run_with_its_error(may_block):
    def fail(seq):
        if seq == 5:
            raise OutputError("disk is full")

    output, other = Recorder(may_block=may_block, before=fail), Recorder()
    with pytest.raises(OutputError, match="disk is full"):
        run(Frames(1000, period_s=0.001), output, other)
    assert output.written == list(range(5))
    assert output.closed == other.closed == 1


@pytest.mark.parametrize("may_block", [False, True], ids=["same thread", "own thread"])
def test_an_output_that_wants_no_more_ends_the_run_without_an_error(may_block):
    def stop(seq):
        if seq == 5:
            raise Stop("window closed")

    output = Recorder(may_block=may_block, before=stop)
    stats = run(Frames(1000, period_s=0.001), output)
    assert output.written == list(range(5))
    assert stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


def test_a_threaded_output_that_wants_no_more_after_the_last_result_is_no_error():
    has_ended = threading.Event()

    def stop(seq):
        assert has_ended.wait(WAIT_S)
        raise Stop("reader left")

    output = Recorder(may_block=True, before=stop)
    together = Outputs([output])
    with pipeline.Pipeline(Frames(1)) as results:
        deliver(results, together)
    has_ended.set()
    together.close()
    assert output.closed == 1


def test_a_threaded_output_gets_every_result_without_a_start():
    output = Recorder(may_block=True)
    with pipeline.Pipeline(Frames(10)) as results, Outputs([output]) as together:
        for result in results:
            together.write(result)
    assert output.written == list(range(10))


@pytest.mark.parametrize("may_block", [False, True], ids=["same thread", "own thread"])
def test_waiting_until_ready_reaches_every_output(may_block):
    class Ready(Recorder):
        is_ready = False

        def wait_ready(self):
            self.is_ready = True

    output = Ready(may_block=may_block)
    with Outputs([output]) as together:
        together.wait_ready()
    assert output.is_ready


def test_outputs_that_were_made_are_closed_if_a_later_one_cannot_be_made(tmp_path):
    made = Recorder()
    settings = Settings(source="0", jsonl=str(tmp_path / "missing" / "out.jsonl"))
    with pytest.raises(InputError, match="missing"):
        Outputs.of(settings, [made])
    assert made.closed == 1


def test_nothing_on_disk_is_touched_before_the_start(tmp_path):
    older = tmp_path / "out.jsonl"
    older.write_text("older results\n")
    Outputs.of(Settings(source="0", jsonl=str(older))).close()
    assert older.read_text() == "older results\n"


def test_every_output_of_the_table_is_turned_on_by_a_setting_of_its_own():
    settings = [kind.setting for kind in OUTPUTS]
    assert len(set(settings)) == len(settings)
    for name in settings:
        assert not getattr(Settings(source="0"), name)


def test_a_python_user_records_writes_lines_and_publishes(tmp_path):
    address = f"zmq+ipc://{tmp_path / 'found'}"
    received = []

    def subscribe():
        with ResultSubscription([address], images=True) as subscription:
            received.append(subscription.read())

    subscriber = threading.Thread(target=subscribe, daemon=True)
    subscriber.start()
    outputs = [
        pipeline.VideoFile(tmp_path / "out.mp4"),
        pipeline.JsonLines(tmp_path / "out.jsonl"),
        pipeline.Publishing(address, awaits_subscriber=True),
    ]
    source = Frames(30, period_s=0.01)
    with pipeline.Pipeline(source) as results, pipeline.Outputs(outputs) as together:
        together.wait_ready()
        pipeline.deliver(results, together)
    subscriber.join(WAIT_S)
    assert received[0].header.camera == "front"
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(30))
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(20.0)
