"""Groups that share the frames of one stream, and the order of what they find."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.feed import Feed
from pipeline.transport import Publisher, ResultSubscription, Subscriber, open_subscription
from pipeline.transport import results as results_of
from pipeline.transport.order import MAX_WAITING, RESTART_S, InSequence
from pipeline.transport.turns import FORGET_S, Turns, ready_message, turn_prefix
from pipeline.types import Detections, Frame, Header, Result

WAIT_S = 30.0
TOPIC = b"frame/front"


def frame(seq=0, camera="front"):
    return Frame(np.full((48, 64, 3), seq % 251, np.uint8), time.time_ns(), seq, camera)


def result(seq, stamp_ns=None, camera="front"):
    stamp_ns = seq if stamp_ns is None else stamp_ns
    return Result(Header(camera, seq, stamp_ns, 64, 48), Detections.empty(()))


# --- whose turn it is -------------------------------------------------------------------------


def member(turns, group="g", wanted=b"frame/"):
    subscription = turn_prefix(group) + wanted
    turns.join(subscription)
    return subscription


def taken_by(turns, topic=TOPIC):
    """Group to the subscription of the member whose turn it is, None where all are busy."""
    return {
        group: own.removesuffix(topic) + b"frame/" if own else None
        for group, own in turns.take(topic)
    }


def test_each_frame_goes_to_the_member_that_waits_longest():
    turns = Turns()
    one, two = member(turns), member(turns)
    turns.hear(ready_message(two, 0))
    turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": two}
    assert taken_by(turns) == {"g": one}
    assert taken_by(turns) == {"g": None}


def test_a_wish_that_is_repeated_is_granted_once(monkeypatch):
    turns = Turns()
    one = member(turns)
    for _ in range(3):
        turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": one}
    turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": None}
    turns.hear(ready_message(one, 1))
    assert taken_by(turns) == {"g": one}
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + FORGET_S + 1)
    turns.hear(ready_message(one, 1))  # it still waits for what was sent long ago
    assert taken_by(turns) == {"g": one}


def test_who_has_left_gets_nothing():
    turns = Turns()
    one = member(turns)
    turns.hear(ready_message(one, 0))
    turns.leave(one)
    assert taken_by(turns) == {}
    turns.hear(ready_message(one, 1))
    assert not turns


def test_every_group_gets_the_frame():
    turns = Turns()
    one, other = member(turns, "one"), member(turns, "other")
    for each in (one, other):
        turns.hear(ready_message(each, 0))
    assert taken_by(turns) == {"one": one, "other": other}


def test_a_member_gets_the_camera_that_it_wants_and_no_other():
    turns = Turns()
    one = member(turns, wanted=b"frame/front")
    turns.hear(ready_message(one, 0))
    assert taken_by(turns, b"frame/front_left") == {}
    assert turns.take(TOPIC) == [("g", one)]


@given(st.binary(max_size=80))
def test_anything_else_that_is_said_is_passed_over(message):
    turns = Turns()
    turns.join(message)
    turns.leave(message)
    one = member(turns)
    turns.hear(message)
    turns.hear(one + message)
    assert taken_by(turns) == {"g": None}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 33, "ä"])
def test_a_group_name_that_no_topic_can_have_is_refused(name, address):
    with pytest.raises(ConfigError, match="group"):
        Subscriber(address, group=name)


def test_members_take_turns_on_frames_only(address):
    with pytest.raises(ConfigError, match="not on results"):
        Subscriber(address, results=True, group="g")


# --- in order again ---------------------------------------------------------------------------


def drained(sequence):
    return [got.header.seq for got in iter(sequence.get, None)]


def test_a_result_waits_for_the_one_before_it():
    sequence = InSequence()
    sequence.put(1, result(0))
    assert drained(sequence) == [0]
    sequence.put(2, result(2))
    assert drained(sequence) == []
    sequence.put(1, result(4))  # sender 1 is past 1, which therefore does not come any more
    assert drained(sequence) == [2]
    sequence.put(2, result(5))
    assert drained(sequence) == [4, 5]


def test_a_single_sender_is_never_waited_for():
    sequence = InSequence()
    for seq in (7, 9, 30):
        sequence.put(1, result(seq))
        assert drained(sequence) == [seq]


def test_a_sender_that_has_gone_is_not_waited_for_long(monkeypatch):
    sequence = InSequence(hold_s=0.5)
    sequence.put(1, result(0))
    sequence.put(2, result(1))
    assert drained(sequence) == [0, 1]
    sequence.put(1, result(5))
    assert drained(sequence) == []
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 0.6)
    assert drained(sequence) == [5]


def test_a_result_that_comes_too_late_is_dropped_and_counted():
    sequence = InSequence()
    sequence.put(1, result(5))
    assert drained(sequence) == [5]
    sequence.put(2, result(4))
    assert drained(sequence) == []
    assert sequence.late == 1


def test_what_is_left_of_a_camera_that_was_started_again_is_dropped():
    sequence = InSequence(hold_s=1e9)
    sequence.put(1, result(10, stamp_ns=5))
    assert drained(sequence) == [10]
    sequence.put(1, result(0, stamp_ns=9))
    sequence.put(2, result(12, stamp_ns=4))
    sequence.put(2, result(1, stamp_ns=10))
    assert drained(sequence) == [0, 1]
    assert sequence.late == 1


def test_a_camera_that_was_started_again_with_its_clock_set_back_is_followed(monkeypatch):
    sequence = InSequence()
    sequence.put(1, result(500, stamp_ns=10**15))
    assert drained(sequence) == [500]
    sequence.put(1, result(0, stamp_ns=5))
    assert drained(sequence) == []
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + RESTART_S)
    sequence.put(1, result(2, stamp_ns=7))
    assert drained(sequence) == [2]


def test_a_sender_that_has_gone_costs_none_of_what_others_send(tmp_path, monkeypatch):
    """All that was held back for it comes at once, to a reader that keeps the newest."""
    monkeypatch.setattr(results_of, "PACE_S", WAIT_S)
    addresses = [f"zmq+ipc://{tmp_path}/{name}" for name in ("a", "b")]
    with (
        Publisher(addresses[0], streams=50) as steady,  # none is to be lost on the way
        Publisher(addresses[1], streams=50) as mortal,
        Feed(ResultSubscription(addresses, ordered=True, streams=2), capacity=2) as feed,
    ):
        while not (steady.wants_results("front") and mortal.wants_results("front")):
            time.sleep(0.01)
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(feed))
        reader.start()
        sent = [*range(20), *range(21, 121, 2)]
        for seq in sent:
            sender = mortal if seq % 2 and seq < 20 else steady
            sender.send_result(result(seq, stamp_ns=time.time_ns()))
            time.sleep(0.02)
        deadline = time.monotonic() + WAIT_S
        while feed.stats()["captured"] < len(sent) and time.monotonic() < deadline:
            time.sleep(0.05)
        feed.stop()
        reader.join(WAIT_S)
    assert [one.header.seq for one in seen] == sent


def test_what_comes_too_late_for_a_subscription_is_counted(address, await_true):
    with (
        Publisher(address, streams=50) as sender,
        ResultSubscription(address, ordered=True) as results,
    ):
        sent, got = itertools.count(1), None
        while got is None:
            sender.send_result(result(next(sent), stamp_ns=10))
            got = results.receive(0.01)
        sender.send_result(result(got.header.seq - 1, stamp_ns=5))
        await_true(lambda: results.receive(0.1) is None and results.late)
        assert results.late == 1


def test_of_two_results_on_one_frame_the_first_is_given():
    sequence = InSequence(hold_s=1e9)
    sequence.put(1, result(0))
    for sender in (2, 1):
        sequence.put(sender, result(2))
    assert drained(sequence) == [0, 2]
    assert sequence.late == 1


def test_a_camera_that_counts_from_zero_again_is_followed():
    sequence = InSequence()
    sequence.put(1, result(500, stamp_ns=1000))
    assert drained(sequence) == [500]
    sequence.put(1, result(0, stamp_ns=2000))
    assert drained(sequence) == [0]


@given(st.integers(1, 5), st.integers(0, 60), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_what_members_send_in_their_own_order_comes_out_in_order(members, total, rng):
    shares = [[] for _ in range(members)]
    for seq in range(total):
        rng.choice(shares).append(seq)
    sequence = InSequence(hold_s=1e9)
    # Everybody has been heard of before, so that everybody is waited for.
    for sender in range(members):
        sequence.put(sender, result(sender, camera="front"))
    given_out = drained(sequence)
    while any(shares):
        sender = rng.choice([i for i in range(members) if shares[i]])
        sequence.put(sender, result(members + shares[sender].pop(0)))
        given_out += drained(sequence)
    for sender in range(members):
        sequence.put(sender, result(members + total + sender))
    assert (given_out + drained(sequence))[: members + total] == list(range(members + total))
    assert sequence.late == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))),
    st.sampled_from([0.0, 1e9]),
)
def test_whatever_senders_claim_nothing_is_given_twice_or_backwards(claims, hold_s):
    sequence, given_out = InSequence(hold_s=hold_s), []
    for sender, seq, stamp_ns in claims:
        sequence.put(sender, result(seq, stamp_ns))
        given_out += [got.header for got in iter(sequence.get, None)]
    assert len(given_out) + sequence.late <= len(claims)
    for before, after in itertools.pairwise(given_out):
        assert after.seq > before.seq or after.stamp_ns > before.stamp_ns


def test_a_flood_of_results_that_wait_is_bounded():
    sequence, given_out = InSequence(hold_s=1e9), []
    sequence.put(-1, result(0))  # never heard of again, so that everything waits for it
    for seq in range(2, 2000, 2):  # with gaps, as those of one that takes turns
        sequence.put(1, result(seq))
        given_out += drained(sequence)
    assert given_out == [0, *range(2, 2000 - 2 * MAX_WAITING, 2)]


# --- on real sockets --------------------------------------------------------------------------


class Detectors:
    """Members of a group, each in a thread: they read a frame, work, and publish a result.

    Work is so many seconds, or what is called with an event that says that all is to end.
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


def publish_until(publisher, condition, fps=100, **of):
    deadline = time.monotonic() + WAIT_S
    seq = 0
    while not condition():
        assert time.monotonic() < deadline
        publisher.send_frame(frame(seq, **of))
        seq += 1
        time.sleep(1 / fps)


def test_members_share_the_frames_and_each_frame_goes_to_one(address, detectors):
    def work_long(stop):
        """Until each of the others has had four frames more."""
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
    assert min(map(len, group.seen[:2])) >= 12  # who is quicker gets more
    assert len(seen) <= counts["sent"] <= len(seen) + 3  # at most one on the way to each


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


def test_others_get_every_frame_beside_a_group(address):
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
        assert len(set(lost)) == 1  # what is overtaken on another way counts before the first


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
