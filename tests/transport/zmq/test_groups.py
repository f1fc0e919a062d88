"""Groups that share the frames of one stream, on real sockets."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import numpy as np
import pytest

from pipeline.transport import Publisher, ResultSubscription, Subscriber, open_subscription
from pipeline.types import Detections, Frame, Result

WAIT_S = 30.0


def frame(seq):
    return Frame(np.full((48, 64, 3), seq % 251, np.uint8), time.time_ns(), seq, "front")


class Detectors:
    """Members of a group, each in a thread: they read a frame, work, and publish a result.

    Work is a number of seconds, or a function that is called with the event that ends all.
    """

    def __init__(self, address, results_address, works):
        self._stop = threading.Event()
        self.seen = [[] for _ in works]
        self._threads = [
            threading.Thread(target=self._run, args=(address, f"{results_address}{i}", work, i))
            for i, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, address, results_address, work, number):
        with (
            Subscriber(address, group="fleet") as subscriber,
            Publisher(results_address) as publisher,
        ):
            while not self._stop.is_set():
                received = subscriber.receive(0.05)
                if received is not None:
                    self.seen[number].append(received.item.seq)
                    work(self._stop) if callable(work) else self._stop.wait(work)
                    publisher.send_result(
                        Result(received.item.header, Detections.empty(("thing",)))
                    )

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.fixture
def detectors(address):
    with contextlib.ExitStack() as stack:

        def start(*works):
            one = Detectors(address, f"{address}-result", works)
            stack.callback(one.stop)
            return one

        yield start


def publish_until(publisher, condition, fps=100):
    deadline = time.monotonic() + WAIT_S
    seq = 0
    while not condition():
        assert time.monotonic() < deadline
        publisher.send_frame(frame(seq))
        seq += 1
        time.sleep(1 / fps)


def test_members_share_the_frames_and_each_frame_goes_to_one(address, detectors):
    def work_long(stop):
        """Wait until each other member has received four more frames."""
        quick = [len(seen) + 4 for seen in group.seen[:2]]
        while not stop.wait(0.01):
            if all(len(seen) >= n for seen, n in zip(group.seen, quick, strict=False)):
                return

    with Publisher(address) as publisher:
        group = detectors(0.01, 0.02, work_long)
        publish_until(publisher, lambda: len(group.seen[2]) >= 4)
        group.stop()
        counts = publisher.counts["turn/fleet/frame/front"]
    seen = sorted(seq for one in group.seen for seq in one)
    assert len(seen) == len(set(seen))
    assert min(map(len, group.seen[:2])) >= 12  # a faster member gets more
    assert len(seen) <= counts["sent"] <= len(seen) + 3  # at most one in flight to each


def test_results_of_a_group_are_seen_in_order(address, detectors):
    addresses = [f"{address}-result{i}" for i in range(3)]
    got = []
    with Publisher(address) as publisher, ResultSubscription(addresses, ordered=True) as results:
        detectors(0.005, 0.03, 0.06)
        reader = threading.Thread(target=lambda: [got.append(r.header.seq) for r in results])
        reader.start()
        publish_until(publisher, lambda: len(got) >= 30)
        results.stop()
        reader.join(WAIT_S)
    assert len(got) >= 30
    assert got == sorted(set(got))


def test_a_member_that_leaves_or_joins_is_noticed_with_the_next_frame(address):
    with Publisher(address) as publisher:
        first = Subscriber(address, group="fleet")
        publish_until(publisher, lambda: first.receive(0.01))
        first.close()
        with Subscriber(address, group="fleet") as second:
            publish_until(publisher, lambda: second.receive(0.01))


def test_a_member_outlives_the_publisher(address):
    with Subscriber(address, group="fleet") as subscriber:
        for _ in range(2):
            with Publisher(address) as publisher:
                publish_until(publisher, lambda: subscriber.receive(0.01))


def test_subscribers_beside_a_group_get_every_frame(address):
    with (
        Publisher(address, streams=8) as publisher,
        Subscriber(address, streams=8, every=True) as viewer,
        Subscriber(address, group="fleet") as subscriber,
    ):
        publish_until(publisher, lambda: subscriber.receive(0.01) and viewer.receive(0.01))
        lost = []
        for seq in range(1000, 1010):
            publisher.send_frame(frame(seq))
            while (received := viewer.receive(WAIT_S)).item.seq < seq:
                pass
            assert received.item.seq == seq
            lost.append(viewer.counts["frame/front"]["lost"])
        assert len(set(lost)) == 1  # a message that is overtaken counts before the first


def test_frames_that_only_a_group_wants_are_not_counted_as_unwanted(address, await_true):
    with Publisher(address) as publisher, Subscriber(address, group="fleet") as subscriber:
        await_true(lambda: subscriber.receive(0.01) or publisher.has_subscribers())
        publisher.counts.clear()
        publish_until(publisher, lambda: subscriber.receive(0.01))
        assert set(publisher.counts) == {"turn/fleet/frame/front"}


def test_no_frame_is_read_before_the_one_in_flight_is_done(address):
    stop = threading.Event()

    def publish():
        rng = random.Random(0)  # noqa: S311 - not for secrets
        with Publisher(address) as publisher:
            seq = 0
            while not stop.wait(0.005):
                publisher.send_frame(frame(seq))
                seq += rng.choice((1, 1, 2))

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with open_subscription(
            address, open_timeout_s=WAIT_S, group="fleet", in_flight=1
        ) as source:
            assert not source.live
            first = source.read()
            second = []
            reader = threading.Thread(target=lambda: second.append(source.read()))
            reader.start()
            reader.join(0.3)
            assert not second
            source.done()
            reader.join(WAIT_S)
            assert second[0].seq > first.seq
            reader = threading.Thread(target=lambda: second.append(source.read()))
            reader.start()
            source.close()
            reader.join(WAIT_S)
            assert second[1] is None
    finally:
        stop.set()
        publisher.join()
