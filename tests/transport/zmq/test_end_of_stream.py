"""The end of a publisher: every subscriber knows how many messages were sent."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import zmq

from pipeline.transport import Publisher, Subscriber
from pipeline.transport.shm import ring_file
from pipeline.types import Detections, Frame, Result

WAIT_S = 30.0
FATES = ("given", "superseded", "gone", "invalid", "repeated", "unread")

needs_shm = pytest.mark.skipif(
    not ring_file.is_available(), reason="shared memory needs Linux with /dev/shm"
)


def frame(seq, shape=(48, 64, 3)):
    return Frame(np.full(shape, seq % 251, np.uint8), time.time_ns(), seq, "front")


class Reader:
    """Reads from a subscriber in a thread of its own until it is closed."""

    def __init__(self, address, **options):
        self.subscriber = Subscriber(address, **options)
        self.paused = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended.is_set():
            if not self.paused.is_set():
                self.subscriber.receive(0.01)

    def close(self):
        self._ended.set()
        self._thread.join()
        self.subscriber.close()

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.close()


@pytest.mark.parametrize("payload", ["raw", "jpeg", pytest.param("shm", marks=needs_shm)])
def test_received_and_lost_are_what_was_sent(address, await_true, payload):
    with Reader(address, results=True) as reader:
        sender = Publisher(address, payload=payload, streams=2)
        await_true(lambda: sender.wants_frames("front") and sender.wants_results("front"))
        for seq in range(300):
            sent = frame(seq, (240, 320, 3))
            sender.send_frame(sent)
            sender.send_result(Result(sent.header, Detections.empty(())))
            if seq == 150:
                reader.paused.set()  # the queues fill, and the last messages are lost
        threading.Timer(0.2, reader.paused.clear).start()
        sender.close(flush_s=WAIT_S)
    for topic in ("frame/front", "result/front"):
        count = reader.subscriber.counts[topic]
        assert count["received"] + count["lost"] == sender.counts[topic]["sent"] == 300
        assert count["received"] == sum(count[fate] for fate in FATES)


def test_the_members_of_a_group_together_receive_what_was_sent(address, await_true):
    with Reader(address, group="crew") as one, Reader(address, group="crew") as two:
        sender = Publisher(address)
        await_true(lambda: len(sender._subscriptions.prefixes) == 2 or sender.has_subscribers())
        deadline = time.monotonic() + WAIT_S
        counts = [reader.subscriber.counts["frame/front"] for reader in (one, two)]
        seq = 0
        while min(count["given"] for count in counts) < 5 and time.monotonic() < deadline:
            sender.send_frame(frame(seq))
            seq += 1
        sender.close(flush_s=WAIT_S)
    sent = sender.counts["turn/crew/frame/front"]["sent"]
    assert sum(count["received"] + count["lost"] for count in counts) == sent


def test_closing_waits_no_longer_than_it_may_for_a_stopped_subscriber(address, await_true):
    with Reader(address) as reader:
        sender = Publisher(address, payload="raw")
        await_true(lambda: sender.wants_frames("front"))
        reader.paused.set()
        for seq in range(20):
            sender.send_frame(frame(seq, (480, 640, 3)))
        started_s = time.monotonic()
        sender.close(flush_s=0.2)
        assert time.monotonic() - started_s >= 0.2
        assert time.monotonic() - started_s < WAIT_S / 2


def test_closing_does_not_wait_once_all_subscribers_have_confirmed(address, await_true):
    with Reader(address) as one, Reader(address) as two:
        sender = Publisher(address, payload="raw")
        topic = b"frame/front"
        await_true(lambda: sender.wants_frames("front") and sender._subscriptions.count(topic) == 2)
        sender.send_frame(frame(0))
        started_s = time.monotonic()
        sender.close(flush_s=WAIT_S)
        assert time.monotonic() - started_s < WAIT_S / 2
    for reader in (one, two):
        assert reader.subscriber.counts["frame/front"]["received"] == 1


def test_confirming_an_end_is_not_a_subscription(address, await_true):
    with (
        Publisher(address) as sender,
        zmq.Context() as context,
        context.socket(zmq.SUB) as socket,
    ):
        socket.linger = 0
        socket.connect(address.removeprefix("zmq+"))
        socket.subscribe(b"end/0123456789abcdef/0123456789abcdef/frame/front")
        socket.subscribe(b"frame/")
        await_true(sender.has_subscribers)
        assert list(sender._subscriptions.prefixes) == [b"frame/"]


def test_the_end_of_an_unknown_publisher_counts_nothing(address, await_true):
    with Reader(address) as early:
        sender = Publisher(address, payload="raw")
        await_true(lambda: sender.wants_frames("front"))
        sender.send_frame(frame(0))
        await_true(lambda: early.subscriber.counts["frame/front"]["received"] == 1)
        with Reader(address) as late:
            topic = b"frame/front"
            await_true(lambda: sender.has_subscribers() and sender._subscriptions.count(topic) == 2)
            sender.close(flush_s=WAIT_S)
        assert not late.subscriber.counts


@needs_shm
def test_the_last_notified_frames_are_given_before_the_end_is_counted(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address, every=True) as receiver:
        for _ in range(2):
            exchanged(sender, receiver)
        for seq in range(1000, 1003):
            sender.send_frame(frame(seq))
        sender.close()
        assert [receiver.receive(WAIT_S).item.seq for _ in range(3)] == [1000, 1001, 1002]
        assert receiver.receive(0.1) is None
        count = receiver.counts["frame/front"]
        assert count["received"] + count["lost"] == sender.counts["frame/front"]["sent"]
