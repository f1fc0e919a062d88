"""Stages, and the ordering and admission around them."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.errors import StageError
from pipeline.runtime.mailbox import Admission, Closed, InOrder, Mailbox
from pipeline.runtime.stage import Stage

WAIT_S = 60.0


class Bench:
    """A stage between two mailboxes that records what happens to every item."""

    def __init__(self, work, workers=1, outbox=None):
        self.inbox, self.outbox = Mailbox(8), outbox or Mailbox(8)
        self.dropped, self.failed = [], []
        self.stage = Stage("bench", self.inbox, work, self.outbox, self.lose, workers)

    def lose(self, item, failed):
        (self.failed if failed else self.dropped).append(item)


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
    assert bench.stage.join(time.monotonic() + WAIT_S) == []


def test_a_stage_that_raises_delivers_its_results_and_then_the_error_with_its_cause():
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


def test_a_worker_that_raises_wakes_the_idle_workers():
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
    assert bench.stage.join(time.monotonic() + WAIT_S) == []
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


def test_a_result_that_the_outbox_refuses_is_dropped_and_counted():
    in_work, go_on = threading.Event(), threading.Event()

    def work(item):
        in_work.set()
        go_on.wait(WAIT_S)
        return item

    bench = Bench(work)
    bench.stage.start()
    bench.inbox.put("unlucky")
    assert in_work.wait(WAIT_S)
    bench.outbox.cancel()  # the consumer ends while the work is being done
    go_on.set()
    assert bench.stage.join(time.monotonic() + WAIT_S) == []
    assert bench.dropped == ["unlucky"]


def test_what_the_outbox_displaces_is_dropped():
    bench = Bench(lambda item: item, outbox=Mailbox(1, newest_wins=True))
    for item in range(3):
        bench.inbox.put(item)
    bench.inbox.close()
    bench.stage.start()
    assert bench.stage.join(time.monotonic() + WAIT_S) == []
    assert bench.dropped == [0, 1]
    assert drain(bench.outbox) == [2]


def test_what_waits_for_a_stage_that_fails_is_dropped():
    def work(item):
        raise RuntimeError(item)

    bench = Bench(work)
    for item in range(3):
        bench.inbox.put(item)
    bench.stage.start()
    assert bench.stage.join(time.monotonic() + WAIT_S) == []
    assert (bench.failed, bench.dropped) == ([0], [1, 2])


def test_a_stage_that_runs_on_is_named():
    in_work, go_on = threading.Event(), threading.Event()

    def work(item):
        in_work.set()
        go_on.wait(WAIT_S)

    bench = Bench(work)
    bench.stage.start()
    bench.inbox.put("slow")
    assert in_work.wait(WAIT_S)
    assert bench.stage.join(time.monotonic()) == ["bench"]
    bench.inbox.close()
    go_on.set()
    assert bench.stage.join(time.monotonic() + WAIT_S) == []


def numbered(capacity=8):
    box = Mailbox(capacity)
    return box, InOrder(box, lambda item: item)


def test_items_come_out_in_order_whatever_order_they_were_put_in():
    box, order = numbered()
    for number in (2, 0, 3, 1, 4):
        order.put(number)
    assert [box.get() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_items_behind_a_missing_number_are_returned_once():
    box, order = numbered()
    for number in (0, 2, 3):
        order.put(number)
    assert box.cancel() == [0]
    assert order.cancel() == [2, 3]
    assert order.cancel() == []


def test_an_item_that_comes_after_the_end_is_held_and_returned_once():
    box, order = numbered()
    order.put(0)
    assert box.cancel() == [0]
    order.put(1)
    assert order.cancel() == [1]


def test_no_more_items_than_the_limit_are_admitted_before_one_leaves():
    box = Mailbox(4)
    admission = Admission(box, 2)
    for item in "abc":
        box.put(item)
    assert [admission.get(), admission.get()] == ["a", "b"]
    third = []
    waiting = threading.Thread(target=lambda: third.append(admission.get()))
    waiting.start()
    waiting.join(0.05)
    assert third == []
    admission.leave()
    waiting.join(WAIT_S)
    assert third == ["c"]


def test_a_cancelled_admission_returns_what_waits_and_admits_nothing():
    box = Mailbox(4)
    admission = Admission(box, 2)
    box.put("a")
    assert admission.cancel() == ["a"]
    admission.leave()
    with pytest.raises(Closed):
        admission.get()
