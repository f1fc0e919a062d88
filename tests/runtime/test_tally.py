"""The account of what came in and what became of it."""

from __future__ import annotations

import threading

from pipeline.runtime.tally import Tally


def balance(tally):
    counts = tally.as_dict()
    return counts["captured"] - counts["processed"] - counts["dropped"] - counts["failed"]


def test_what_is_under_way_at_the_end_counts_as_dropped_and_nothing_after():
    tally = Tally()
    for fate in ("captured", "captured", "captured", "processed", "failed"):
        tally.add(fate)
    assert balance(tally) == 1
    tally.settle()
    assert balance(tally) == 0
    assert tally["dropped"] == 1
    tally.add("dropped")  # a thread that was left behind comes back
    assert balance(tally) == 0


def test_counts_of_many_threads_are_all_there():
    tally, start = Tally(), threading.Barrier(4)

    def count():
        start.wait()
        for _ in range(2000):
            tally.add("captured")
            tally.add("processed")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.as_dict() == {"captured": 8000, "processed": 8000, "dropped": 0, "failed": 0}
