"""Numbers and times that a peer makes up: they affect its own messages and no other's."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.output.video_file import LONGEST_LEAD_S, VideoFile
from pipeline.transport import Publisher, ResultSubscription, Subscriber
from pipeline.transport.wire.schema import EndHeader, Envelope
from pipeline.transport.zmq import reorder
from pipeline.transport.zmq.reorder import ResultOrder
from pipeline.transport.zmq.stream_counts import MAX_GAP, Streams
from pipeline.types import Detections, Frame, Header, Result
from tests.faults.processes import wait_for
from tests.security.messages import envelope, frame_message, peer, result_message

WAIT_S = 20.0
LARGEST = 2**63 - 1
PERIOD_S = 1 / 30


@pytest.fixture
def address(tmp_path):
    return f"zmq+ipc://{tmp_path}/socket"


def result(seq, stamp_ns):
    return Result(Header("front", seq, stamp_ns, 64, 48), Detections.empty(()))


# --- order ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The time of everything that waits; it advances only if a test sets it."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(reorder, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


FORGERIES = {
    "largest": (45, lambda seq, stamp_ns: (LARGEST, LARGEST)),
    "largest number": (45, lambda seq, stamp_ns: (LARGEST, stamp_ns)),
    "latest time": (45, lambda seq, stamp_ns: (seq + 1, LARGEST)),
    "large steps": (1, lambda seq, stamp_ns: (seq + 500, stamp_ns + 300_000_000)),
    "small steps": (1, lambda seq, stamp_ns: (seq + 3, stamp_ns + 90_000_000)),
    "zero": (45, lambda seq, stamp_ns: (0, 0)),
}


@pytest.mark.parametrize(("every", "forge"), FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("detectors", [1, 2])
def test_forged_results_hide_no_others(clock, every, forge, detectors):
    order, seen = ResultOrder(), []
    stamps = [10**18 + round(seq * PERIOD_S * 1e9) for seq in range(300)]
    for seq, stamp_ns in enumerate(stamps):
        order.put(1 + seq % detectors, result(seq, stamp_ns))
        if seq > 10 and seq % every == 0:
            order.put(9, result(*forge(seq, stamp_ns)))
        clock.now_s += PERIOD_S
        seen += [got.header for got in iter(order.get, None)]
    clock.now_s += 1
    seen += [got.header for got in iter(order.get, None)]
    genuine = {(got.seq, got.stamp_ns) for got in seen} & set(enumerate(stamps))
    assert len(genuine) == 300


def test_an_ordered_view_shows_all_results_beside_forged_ones(address):
    with (
        ResultSubscription(f"{address}?bind", ordered=True, streams=20) as results,
        Publisher(f"{address}?connect", streams=20) as honest,
        peer(address) as forger,
    ):
        numbers = itertools.count()

        def exchange():
            seq = next(numbers)
            honest.send_result(result(seq, time.time_ns()))
            if seq % 10 == 0:
                forger.send_multipart(result_message(seq=LARGEST, stamp_ns=LARGEST, count=seq))
            time.sleep(0.01)
            got = []
            while (one := results.receive(0.001)) is not None:
                got.append(one.header.seq)
            return got

        seen = wait_for(exchange, "a result", WAIT_S)
        first = next(numbers)
        honest.send_result(result(first, time.time_ns()))
        for _ in range(100):
            seen += exchange()
        wait_for(lambda: seen.extend(exchange()) or LARGEST in seen, "the forged result", WAIT_S)
        last = next(numbers)
        honest.send_result(result(last, time.time_ns()))
        wait_for(lambda: seen.extend(exchange()) or last in seen, "the last result", WAIT_S)
        counts = results.counts()["received"]["result/front"]
    genuine = {seq for seq in seen if first <= seq <= last}
    assert len(genuine) >= last - first + 1 - counts["lost"]


@pytest.mark.parametrize("step_s", [9.9, 0.1])
def test_times_that_run_ahead_do_not_lengthen_a_recording(tmp_path, recordable, step_s):
    output = VideoFile(tmp_path / "out.mp4", fps=10.0, live=True)
    for number in range(300):
        output.write(recordable(round(number * step_s * 1e9)))
    output.close()
    assert output._written < 10 * LONGEST_LEAD_S + 100  # and what was real time


@pytest.fixture
def recordable():
    """Makes a result with an image."""

    def make(stamp_ns):
        frame = Frame(np.zeros((48, 64, 3), np.uint8), stamp_ns, 0, "front")
        return Result(frame.header, Detections.empty(()), frame=frame)

    return make


# --- counts ---------------------------------------------------------------------------------------


def header(**fields):
    return Envelope(**envelope(**fields))


def admit(streams, connection, **fields):
    return streams.admit("frame/front", header(**fields), connection, lambda: "localhost")


def end(sent, sender=1):
    return EndHeader(version=2, sender=sender, sent=sent, camera="front")


@pytest.mark.parametrize("jump", [MAX_GAP + 2, LARGEST])
def test_a_large_step_in_the_numbers_is_a_restart_and_no_loss(jump):
    streams = Streams()
    assert admit(streams, 1, count=0)
    assert admit(streams, 1, count=jump)
    assert admit(streams, 1, count=1)  # and back
    assert admit(streams, 1, count=4)
    streams.end("frame/front", end(LARGEST), 1)
    assert streams.counts["frame/front"] == {"received": 4, "lost": 2}


def test_a_step_up_to_the_stated_gap_is_a_loss():
    streams = Streams()
    admit(streams, 1, count=0)
    admit(streams, 1, count=MAX_GAP)
    assert streams.counts["frame/front"]["lost"] == MAX_GAP - 1


@pytest.mark.parametrize("ahead", [1, 100, MAX_GAP, LARGEST - 100])
def test_who_claims_the_number_of_another_sender_changes_nothing_for_it(tmp_path, ahead):
    with (tmp_path / "one").open("w") as one, (tmp_path / "other").open("w") as other:
        streams, genuine = Streams(), 0
        for count in range(0, 100, 2):  # each second message is lost
            admitted = admit(streams, one.fileno(), count=count, seq=count, stamp_ns=count)
            genuine += admitted is not None
            admit(streams, other.fileno(), count=count + ahead, seq=9, stamp_ns=9)
            streams.end("frame/front", end(count + ahead), other.fileno())
    assert genuine == 50
    assert streams.counts["frame/front"]["lost"] == 49


def test_a_sender_that_connects_again_continues_its_count(tmp_path):
    streams = Streams()
    with (tmp_path / "one").open("w") as one:
        admit(streams, one.fileno(), count=0)
    with (tmp_path / "two").open("w"), (tmp_path / "three").open("w") as three:
        admit(streams, three.fileno(), count=5)
    assert streams.counts["frame/front"] == {"received": 2, "lost": 4}


def test_lost_stays_within_what_was_sent(address):
    with (
        Subscriber(f"{address}?bind", streams=50) as subscriber,
        peer(address) as sender,
    ):
        counts = itertools.cycle([0, LARGEST, 5, LARGEST - 7, 3, MAX_GAP + 10])
        count = subscriber.counts["frame/front"]

        def send():
            sender.send_multipart(frame_message(count=next(counts)))
            subscriber.receive(0.01)
            return count["received"] > 50

        wait_for(send, "frames", WAIT_S)
    assert count["lost"] < 50 * 10
