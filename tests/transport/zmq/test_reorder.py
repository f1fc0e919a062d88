"""Puts the results of several senders on one stream back in order."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine import Pipeline
from pipeline.transport import Publisher, ResultSubscription
from pipeline.transport.zmq import reorder as order
from pipeline.transport.zmq import results as results_of
from pipeline.transport.zmq.reorder import MAX_WAITING, RESTART_S, ResultOrder
from pipeline.types import Detections, Header, Result

WAIT_S = 30.0


def result(seq, stamp_ns=None):
    stamp_ns = seq if stamp_ns is None else stamp_ns
    return Result(Header("front", seq, stamp_ns, 64, 48), Detections.empty(()))


def drained(sequence):
    return [got.header.seq for got in iter(sequence.get, None)]


@pytest.fixture
def clock(monkeypatch):
    """The time for everything that waits; it advances only if a test sets it."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(order, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


@pytest.mark.usefixtures("clock")
def test_a_result_waits_for_the_one_before_it():
    sequence = ResultOrder()
    sequence.put(1, result(0))
    assert drained(sequence) == [0]
    sequence.put(2, result(2))
    assert drained(sequence) == []
    sequence.put(1, result(4))  # sender 1 has passed number 1, so that cannot come any more
    assert drained(sequence) == [2]
    sequence.put(2, result(5))
    assert drained(sequence) == [4, 5]


def test_a_single_sender_is_never_waited_for():
    sequence = ResultOrder()
    for seq in (7, 9, 30):
        sequence.put(1, result(seq))
        assert drained(sequence) == [seq]


def test_results_do_not_wait_long_for_an_ended_sender(clock):
    sequence = ResultOrder(hold_s=0.5)
    sequence.put(1, result(0))
    sequence.put(2, result(1))
    assert drained(sequence) == [0, 1]
    sequence.put(1, result(5))
    assert drained(sequence) == []
    clock.now_s += 0.6
    assert drained(sequence) == [5]


@pytest.mark.usefixtures("clock")
def test_a_result_that_comes_too_late_is_dropped_and_counted():
    sequence = ResultOrder()
    sequence.put(1, result(5))
    assert drained(sequence) == [5]
    sequence.put(2, result(4))
    assert drained(sequence) == []
    assert sequence.late == 1


@pytest.mark.usefixtures("clock")
def test_old_results_of_a_restarted_camera_are_dropped():
    sequence = ResultOrder(hold_s=1e9)
    sequence.put(1, result(10, stamp_ns=5))
    assert drained(sequence) == [10]
    sequence.put(1, result(0, stamp_ns=9))
    sequence.put(2, result(12, stamp_ns=4))
    sequence.put(2, result(1, stamp_ns=10))
    assert drained(sequence) == [0, 1]
    assert sequence.late == 1


def test_a_restarted_camera_with_its_clock_set_back_is_followed(clock):
    sequence = ResultOrder()
    sequence.put(1, result(500, stamp_ns=10**15))
    assert drained(sequence) == [500]
    sequence.put(1, result(0, stamp_ns=5))
    assert drained(sequence) == []
    clock.now_s += RESTART_S
    sequence.put(1, result(2, stamp_ns=7))
    assert drained(sequence) == [2]


def test_an_ended_sender_loses_no_results_of_others(tmp_path, monkeypatch, await_true):
    """All results that waited for it become due at once, for a reader that keeps the newest."""
    monkeypatch.setattr(results_of, "PACE_S", WAIT_S)
    addresses = [f"zmq+ipc://{tmp_path}/{name}" for name in ("a", "b")]
    results = ResultSubscription(addresses, ordered=True, streams=2)
    with (
        Publisher(addresses[0]) as steady,
        Publisher(addresses[1]) as mortal,
        Pipeline(results, capacity=2) as feed,
    ):
        await_true(lambda: steady.wants_results("front") and mortal.wants_results("front"))
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(feed))
        reader.start()
        sent = [*range(20), *range(21, 121, 2)]
        for number, seq in enumerate(sent, 1):
            sender = mortal if seq % 2 and seq < 20 else steady
            sender.send_result(result(seq, stamp_ns=time.time_ns()))
            time.sleep(0.02)
            # A slower sender than this may lose some, however long they wait.
            await_true(lambda n=number: len(seen) + results.late + feed.stats()["dropped"] >= n)
        await_true(lambda: len(seen) + feed.stats()["dropped"] >= len(sent))
        feed.stop()
        reader.join(WAIT_S)
    assert [one.header.seq for one in seen] == sent


def test_a_subscription_counts_late_results(address, await_true):
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


def test_the_first_of_two_results_on_one_frame_is_returned():
    sequence = ResultOrder(hold_s=1e9)
    sequence.put(1, result(0))
    for sender in (2, 1):
        sequence.put(sender, result(2))
    assert drained(sequence) == [0, 2]
    assert sequence.late == 1


def test_a_camera_that_restarts_at_zero_is_followed():
    sequence = ResultOrder()
    sequence.put(1, result(500, stamp_ns=1000))
    assert drained(sequence) == [500]
    sequence.put(1, result(0, stamp_ns=2000))
    assert drained(sequence) == [0]


@given(st.integers(1, 5), st.integers(0, 60), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_results_of_members_are_returned_in_order(members, total, rng):
    shares = [[] for _ in range(members)]
    for seq in range(total):
        rng.choice(shares).append(seq)
    sequence = ResultOrder(hold_s=1e9)
    # Every sender is known before, so that results wait for all of them.
    for sender in range(members):
        sequence.put(sender, result(sender))
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
def test_no_result_of_a_sender_is_returned_twice_or_backwards(claims, hold_s):
    sequence, given_out = ResultOrder(hold_s=hold_s), []
    for sender, seq, stamp_ns in claims:
        sent = dataclasses.replace(result(seq, stamp_ns), stage_ns={"sender": sender})
        sequence.put(sender, sent)
        given_out += iter(sequence.get, None)
    assert len(given_out) + sequence.late <= len(claims)
    for sender in range(4):
        own = [got.header for got in given_out if got.stage_ns["sender"] == sender]
        for before, after in itertools.pairwise(own):
            assert after.seq > before.seq or after.stamp_ns > before.stamp_ns


def test_a_flood_of_results_that_wait_is_bounded():
    sequence, given_out = ResultOrder(hold_s=1e9), []
    sequence.put(-1, result(0))  # sends nothing more, so that everything waits for it
    for seq in range(2, 2000, 2):  # with gaps, as from a sender that takes turns
        sequence.put(1, result(seq))
        given_out += drained(sequence)
    assert given_out == [0, *range(2, 2000 - 2 * MAX_WAITING, 2)]
