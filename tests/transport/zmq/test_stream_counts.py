"""What a subscriber stores about each sender."""

from __future__ import annotations

import logging
import time

from pipeline.transport import Publisher, Subscriber
from pipeline.transport.wire.schema import (
    Envelope,
)
from pipeline.transport.zmq.stream_counts import LATE_NS, MAX_STREAMS, Streams
from pipeline.transport.zmq.subscriber import FRESHER_S
from pipeline.types import Detections, Header, Result

NEWEST = 100


def envelope(sender, camera="front"):
    sizes = {"width": 64, "height": 48}
    times = {"stamp_ns": 0, "sent_ns": 0, "steady_ns": time.monotonic_ns()}
    return Envelope(version=2, sender=sender, count=0, camera=camera, seq=0, **times, **sizes)


def test_ever_new_senders_fill_neither_the_log_nor_memory(caplog):
    caplog.set_level(logging.INFO)
    streams = Streams()
    for sender in range(2 * MAX_STREAMS):
        assert streams.admit("frame/front", envelope(sender), sender, lambda: "localhost")
    assert caplog.text.count("another publisher has started") == 1
    assert streams.counts["frame/front"]["received"] == 2 * MAX_STREAMS
    for number in range(2 * MAX_STREAMS):
        streams.admit(f"frame/c{number}", envelope(1, f"c{number}"), 1, lambda: "localhost")
    assert len(streams.counts) <= MAX_STREAMS + 1  # that of refused messages


def test_a_stopped_subscriber_gets_the_newest_even_if_stopped_again(
    address, await_true, monkeypatch
):
    empty = Detections.empty(())
    with Publisher(address) as sender, Subscriber(address, frames=False, results=True) as receiver:

        def send(seq):
            sender.send_result(Result(Header("front", seq, time.time_ns(), 64, 48), empty))
            return True

        def take_in_and_stand():
            take_in()
            time.sleep(1.5 * FRESHER_S)

        def attempt():
            """Retried if the machine was too slow for the messages to wait long enough."""
            monkeypatch.undo()
            await_true(lambda: send(0) and receiver.receive(0.1))
            for seq in range(NEWEST + 1):  # more than are read at once
                send(seq)
                time.sleep(0.002)  # else most are dropped
            time.sleep(1.5 * LATE_NS / 1e9)
            monkeypatch.setattr(receiver, "_read_all", take_in_and_stand)
            return receiver.receive(1.0).item.header.seq == NEWEST

        take_in = receiver._read_all
        await_true(attempt)
