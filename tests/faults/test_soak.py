"""Two minutes of kill -9; `python -m tests.faults.soak --minutes 60` does it for longer."""

from __future__ import annotations

import pytest

from pipeline.transport import shared_memory

from .soak import Soak

SECONDS = 100  # with the start, and the account at the end, about two minutes


@pytest.mark.slow
@pytest.mark.skipif(not shared_memory.is_available(), reason="shared memory needs Linux")
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
