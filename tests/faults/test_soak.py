"""Two minutes of kill -9; `python -m tests.faults.soak --minutes 60` does it for longer."""

from __future__ import annotations

import pytest

from pipeline.transport.shm import ring_file

from .processes import IN_HAND, how_many_above
from .soak import Soak

STOPPED_S = 10
SECONDS = 100  # with the start, and the account at the end, about two minutes


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ring_file.is_available(), reason="shared memory needs Linux"),
]


def test_whoever_is_killed_the_others_go_on_and_the_counts_add_up(tmp_path, capsys):
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


def test_a_viewer_that_is_stopped_slows_nobody_and_goes_on_with_the_newest(tmp_path, crowding):
    soak = Soak(tmp_path, seed=1, size="320x240")
    try:
        others_had, ages_ms = soak.stop_viewer(STOPPED_S)
    finally:
        soak.close()
    before, meanwhile, afterwards = others_had
    assert meanwhile > 0.5 * min(before, afterwards), others_had  # on however few cores
    # One result it may have had in its hands; history would be many seconds and hundreds of them.
    assert how_many_above(1000 * crowding(), ages_ms) <= IN_HAND, ages_ms
