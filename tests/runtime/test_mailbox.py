"""The mailbox, with races forced by events."""

from __future__ import annotations

import threading

import pytest

from pipeline.runtime.mailbox import Closed, Mailbox, NewestOfEach

WAIT_S = 60.0


def in_thread(function):
    """Run `function` in a thread; returns a function that waits for its result."""
    outcome = []

    def run():
        try:
            outcome.append(("value", function()))
        except BaseException as error:
            outcome.append(("error", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait():
        thread.join(WAIT_S)
        assert not thread.is_alive(), "still blocked"
        kind, value = outcome[0]
        if kind == "error":
            raise value
        return value

    wait.thread = thread
    return wait


def blocked_on(condition):
    """Wait until some thread is inside `condition.wait`."""
    deadline = threading.Event()
    timer = threading.Timer(WAIT_S, deadline.set)
    timer.start()
    try:
        while not condition._waiters:
            assert not deadline.is_set(), "no thread began to wait"
    finally:
        timer.cancel()


def test_items_come_out_in_the_order_they_went_in():
    box = Mailbox(3)
    for item in "abc":
        assert box.put(item) is None
    assert [box.get() for _ in range(3)] == ["a", "b", "c"]


def test_newest_wins_returns_the_older_item_to_the_writer():
    box = Mailbox(1, newest_wins=True)
    assert box.put("old") is None
    assert box.put("new") == "old"
    assert box.get() == "new"
    assert box.cancel() == []


def test_a_full_mailbox_makes_the_writer_wait_for_the_reader():
    box = Mailbox(1)
    box.put("first")
    writer = in_thread(lambda: box.put("second"))
    blocked_on(box._changed_for_writers)
    assert box.get() == "first"
    assert writer() is None
    assert box.get() == "second"


def test_an_empty_mailbox_makes_the_reader_wait_for_the_writer():
    box = Mailbox(1)
    reader = in_thread(box.get)
    blocked_on(box._changed_for_readers)
    box.put("late")
    assert reader() == "late"


def test_get_raises_after_its_timeout():
    with pytest.raises(TimeoutError):
        Mailbox(1).get(timeout_s=0.01)


def test_close_lets_the_reader_finish_what_is_inside():
    box = Mailbox(2)
    box.put(1)
    box.put(2)
    box.close()
    assert [box.get(), box.get()] == [1, 2]
    with pytest.raises(Closed):
        box.get()


def test_close_wakes_a_waiting_reader():
    box = Mailbox(1)
    reader = in_thread(box.get)
    blocked_on(box._changed_for_readers)
    box.close()
    with pytest.raises(Closed):
        reader()


def test_the_writers_failure_is_raised_after_the_items_and_every_time():
    box = Mailbox(2)
    failure = RuntimeError("camera on fire")
    box.put("last good one")
    box.close(failure)
    assert box.get() == "last good one"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on fire"):
            box.get()


def test_the_first_reason_for_closing_stays():
    box = Mailbox(1)
    box.close()
    box.close(RuntimeError("too late"))
    with pytest.raises(Closed):
        box.get()


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_a_waiting_writer_keeps_its_item_when_the_mailbox_ends(end):
    box = Mailbox(1)
    box.put("inside")
    writer = in_thread(lambda: box.put("outside"))
    blocked_on(box._changed_for_writers)
    left = getattr(box, end)()
    with pytest.raises(Closed):
        writer()
    assert left == (["inside"] if end == "cancel" else None)


def test_cancel_returns_each_item_exactly_once():
    box = Mailbox(3)
    box.put(1)
    box.put(2)
    assert box.cancel() == [1, 2]
    assert box.cancel() == []
    with pytest.raises(Closed):
        box.get()
    with pytest.raises(Closed):
        box.put(3)


@pytest.mark.parametrize("newest_wins", [False, True], ids=["back-pressure", "newest-wins"])
def test_nothing_is_lost_or_doubled_with_many_writers_and_readers(newest_wins):
    box = Mailbox(2, newest_wins=newest_wins)
    displaced, taken = [], []
    start = threading.Barrier(7)

    def write(base):
        start.wait()
        for i in range(500):
            old = box.put(base + i)
            if old is not None:
                displaced.append(old)

    def read():
        start.wait()
        while True:
            try:
                taken.append(box.get())
            except Closed:
                return

    writers = [in_thread(lambda base=base: write(base)) for base in (0, 1000, 2000, 3000)]
    readers = [in_thread(read) for _ in range(3)]
    for wait in writers:
        wait()
    box.close()
    for wait in readers:
        wait()
    everything = [base + i for base in (0, 1000, 2000, 3000) for i in range(500)]
    assert sorted(displaced + taken) == everything
    assert newest_wins or not displaced


def test_a_capacity_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, but got 0"):
        Mailbox(0)


def by_letter(item):
    return item[0]


def test_the_newest_of_each_kind_waits_and_the_older_one_is_returned():
    box = NewestOfEach(by_letter)
    assert [box.put(item) for item in ("a1", "b1", "a2", "a3")] == [None, None, "a1", "a2"]
    assert [box.get(), box.get()] == ["a3", "b1"]
    with pytest.raises(TimeoutError):
        box.get(timeout_s=0.01)


def test_a_depth_keeps_that_many_of_each_kind_in_their_order():
    box = NewestOfEach(by_letter, depth=2)
    assert [box.put(item) for item in ("a1", "b1", "a2", "a3", "b2", "a4")] == [
        None, None, None, "a1", None, "a2",
    ]  # fmt: skip
    assert [box.get() for _ in range(4)] == ["a3", "b1", "a4", "b2"]


def test_a_fast_sender_does_not_get_more_turns_than_a_slow_one():
    box, taken = NewestOfEach(by_letter), []
    box.put("slow0")
    for turn in range(12):
        for count in range(5):
            box.put(f"fast{turn}.{count}")
        taken.append(box.get())
        if turn % 2:
            box.put(f"slow{turn}")
    assert [item[0] for item in taken] == ["s", "f"] * 6
    assert [item for item in taken if item[0] == "f"] == [
        f"fast{turn}.4" for turn in range(1, 12, 2)
    ]


def test_ever_new_kinds_displace_the_one_that_has_waited_longest():
    box = NewestOfEach(str, capacity=3)
    assert [box.put(item) for item in "abcde"] == [None, None, None, "a", "b"]
    assert box.cancel() == ["c", "d", "e"]
    with pytest.raises(Closed):
        box.put("f")


def test_what_waits_of_each_kind_is_still_given_after_closing():
    box = NewestOfEach(by_letter)
    box.put("a1")
    box.put("b1")
    box.close()
    assert [box.get(), box.get()] == ["a1", "b1"]
    with pytest.raises(Closed):
        box.get()
