"""Two minutes of kill -9; `python -m tests.faults.soak --minutes 60` runs it for longer."""

from __future__ import annotations

import pytest

from pipeline.transport.shm import ring_file

from .processes import IN_HAND, how_many_above
from .soak import Soak

STOPPED_S = 10
SECONDS = 100  # with the start and the comparison of counts about two minutes


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ring_file.is_available(), reason="shared memory needs Linux"),
]


def test_other_processes_continue_after_a_kill_and_the_counts_are_equal(tmp_path, capsys):
    soak = Soak(tmp_path, seed=1, size="640x360")
    try:
        soak.run(SECONDS)
        with capsys.disabled():
            print(f"\n{soak.summary()}")  # noqa: T201 - figures that a log should have
        soak.check()
        soak.account()
    finally:
        soak.close()
    assert soak.leftovers() == []


def test_a_stopped_viewer_slows_no_process_and_continues_with_the_newest(tmp_path, crowding):
    soak = Soak(tmp_path, seed=1, size="320x240")
    try:
        others_had, ages_ms = soak.stop_viewer(STOPPED_S)
    finally:
        soak.close()
    before, meanwhile, afterwards = others_had
    assert meanwhile > 0.5 * min(before, afterwards), others_had  # on however few cores
    # It may have been processing one result; old results would be hundreds, many seconds old.
    assert how_many_above(1000 * crowding(), ages_ms) <= IN_HAND, ages_ms
