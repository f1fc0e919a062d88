"""What a subscriber keeps of those who send to it."""

from __future__ import annotations

import logging
import time

from pipeline.transport.streams import MAX_STREAMS, Streams
from pipeline.transport.wire import Envelope


def envelope(sender, camera="front"):
    sizes = {"width": 64, "height": 48}
    times = {"stamp_ns": 0, "sent_ns": 0, "steady_ns": time.monotonic_ns()}
    return Envelope(sender=sender, count=0, camera=camera, seq=0, **times, **sizes)


def test_who_calls_himself_another_every_time_fills_neither_the_log_nor_memory(caplog):
    caplog.set_level(logging.INFO)
    streams = Streams()
    for sender in range(2 * MAX_STREAMS):
        assert streams.admit("frame/front", envelope(sender), lambda: "localhost")
    assert caplog.text.count("another publisher has started") == 1
    assert streams.counts["frame/front"]["received"] == 2 * MAX_STREAMS
    for number in range(2 * MAX_STREAMS):
        streams.admit(f"frame/c{number}", envelope(1, f"c{number}"), lambda: "localhost")
    assert len(streams.counts) <= MAX_STREAMS
