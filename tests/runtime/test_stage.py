"""Stages and the ordering behind them."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.errors import StageError
from pipeline.runtime.mailbox import Closed, Mailbox
from pipeline.runtime.metrics import WINDOW, Durations
from pipeline.runtime.ordering import InOrder
from pipeline.runtime.stage import Stage

WAIT_S = 60.0


class Bench:
    """A stage between two mailboxes that notes what happens to every item."""

    def __init__(self, work, workers=1, inbox=8, outbox=8):
        self.inbox, self.outbox = Mailbox(inbox), Mailbox(outbox)
        self.discarded, self.failed, self.finished = [], [], []
        self.stage = Stage(
            "bench",
            take=self.inbox.get,
            work=work,
            give=self.outbox.put,
            discard=self.discarded.append,
            fail=self.failed.append,
            abort=self.inbox.cancel,
            finish=self.finish,
            workers=workers,
        )

    def finish(self, failure):
        self.finished.append(failure)
        self.outbox.close(failure)


def drain(box):
    items = []
    while True:
        try:
            items.append(box.get(WAIT_S))
        except Closed:
            return items


def test_a_stage_passes_on_its_work_and_ends_with_its_input():
    bench = Bench(lambda item: item * 2)
    bench.stage.start()
    for item in range(5):
        bench.inbox.put(item)
    bench.inbox.close()
    assert drain(bench.outbox) == [0, 2, 4, 6, 8]
    assert bench.stage.join(time.monotonic() + WAIT_S)
    assert bench.finished == [None]


def test_a_stage_that_raises_hands_on_its_results_then_the_error_with_its_cause():
    def work(item):
        if item == 2:
            raise ZeroDivisionError("two is too much")
        return item

    bench = Bench(work)
    for item in range(4):
        bench.inbox.put(item)
    bench.stage.start()
    assert [bench.outbox.get(WAIT_S), bench.outbox.get(WAIT_S)] == [0, 1]
    with pytest.raises(StageError, match="stage bench: ZeroDivisionError: two") as caught:
        bench.outbox.get(WAIT_S)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert bench.failed == [2]


def test_a_worker_that_raises_wakes_its_idle_neighbours():
    both_busy = threading.Barrier(2)
    may_fail = threading.Event()

    def work(item):
        both_busy.wait(WAIT_S)
        if item == "bad":
            may_fail.wait(WAIT_S)
            raise RuntimeError(item)
        return item

    bench = Bench(work, workers=2)
    bench.stage.start()
    bench.inbox.put("good")
    bench.inbox.put("bad")
    assert bench.outbox.get(WAIT_S) == "good"
    may_fail.set()  # the other worker now waits for an item that never comes
    assert bench.stage.join(time.monotonic() + WAIT_S)
    assert len(bench.finished) == 1
    assert bench.failed == ["bad"]


def test_the_error_of_an_earlier_stage_is_passed_on_unchanged():
    bench = Bench(lambda item: item)
    failure = StageError("stage capture: it rains")
    bench.inbox.put("last")
    bench.inbox.close(failure)
    bench.stage.start()
    assert bench.outbox.get(WAIT_S) == "last"
    with pytest.raises(StageError) as caught:
        bench.outbox.get(WAIT_S)
    assert caught.value is failure


def test_what_cannot_be_handed_over_is_discarded_not_lost():
    in_work, go_on = threading.Event(), threading.Event()

    def work(item):
        in_work.set()
        go_on.wait(WAIT_S)
        return item

    bench = Bench(work)
    bench.stage.start()
    bench.inbox.put("unlucky")
    assert in_work.wait(WAIT_S)
    bench.outbox.cancel()  # the consumer dies while the work is being done
    go_on.set()
    assert bench.stage.join(time.monotonic() + WAIT_S)
    assert bench.discarded == ["unlucky"]


def test_order_is_restored_whatever_order_the_workers_end_in():
    given = []
    order = InOrder(given.append, lambda item: None)
    for ticket in (2, 0, 3, 1, 4):
        order.put(ticket, f"item {ticket}")
    assert given == [f"item {i}" for i in range(5)]


def test_items_behind_a_lost_ticket_are_given_up_once():
    given = []
    order = InOrder(given.append, lambda item: None)
    order.put(0, "zero")
    order.put(2, "two")
    order.put(3, "three")
    assert given == ["zero"]
    assert order.cancel() == ["two", "three"]
    assert order.cancel() == []


def test_durations_keep_a_bounded_window_and_the_largest_of_all():
    durations = Durations()
    durations.add(1e6)
    for value in range(WINDOW):
        durations.add(float(value))
    assert len(durations) == WINDOW + 1
    assert durations.max_ms == 1e6
    p50, p95, p99 = durations.percentiles()
    assert p50 == pytest.approx((WINDOW - 1) / 2)
    assert p50 < p95 < p99 < WINDOW


def test_durations_without_records_are_zero():
    assert Durations().percentiles() == (0.0, 0.0, 0.0)
