"""The machine's clock is set back by an hour under camera, detector and viewer."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time

import pytest

from .processes import TRIES, Command, json_of, last_lines, wait_for

HOUR_S = 3600
MOST_MS = 10_000  # an age; one by two clocks would be an hour, or none
LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


class Clock:
    """The time of the processes that have its `env`."""

    def __init__(self, library, file):
        self._file = file
        self.env = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set(self, offset_s):
        other = self._file.with_suffix(".new")
        other.write_text(f"{offset_s:+d}\n")
        os.replace(other, self._file)


@pytest.fixture
def clock(tmp_path):
    """Sets the wall clock of the processes that have its environment; not the monotonic one."""
    libraries = [found for pattern in LIBRARIES for found in glob.glob(pattern)]
    if not libraries:
        pytest.skip("needs libfaketime; on Debian: apt install libfaketime")
    clock = Clock(libraries[0], tmp_path / "clock")
    clock.set(0)
    return clock


@pytest.mark.slow
def test_a_clock_that_is_set_back_stops_nothing_and_ages_stay_valid(clock, tmp_path, crowding):
    frames, results = f"zmq+ipc://{tmp_path}/frames", f"zmq+ipc://{tmp_path}/results"
    shown, recording = tmp_path / "shown.jsonl", tmp_path / "shown.mp4"
    stats = {name: tmp_path / f"{name}.json" for name in ("camera", "detect", "view")}
    arguments = {
        "camera": ("scene:?size=320x240", "--fps", 30, "--publish", frames),
        "detect": ("--subscribe", frames, "--publish", results),
        "view": ("--subscribe", results, "--jsonl", shown, "--record", recording),
    }

    def set_back_to(offset_s):
        """The seconds until a result with the new time comes; more must follow."""
        clock.set(offset_s)
        start_s = time.monotonic()
        limit_ns = time.time_ns() + (offset_s + HOUR_S // 2) * 10**9
        wait_for(lambda: lines_at(shown, limit_ns.__gt__), "a result by the new time")
        took_s = time.monotonic() - start_s
        wait_for(lambda: len(lines_at(shown, limit_ns.__gt__)) > 30, "more of them")
        return took_s

    with contextlib.ExitStack() as stack:
        commands = []
        for name, those in arguments.items():
            more = "--stats", stats[name]
            commands.append(Command(name, *those, *more, folder=tmp_path, env=clock.env))
            stack.callback(commands[-1].kill)
        wait_for(lambda: len(lines_at(shown, bool)) > 20, "the first results")
        for hours in range(1, 1 + TRIES):
            took_s = set_back_to(-hours * HOUR_S)
            if took_s < 2 * crowding():
                break
        else:
            pytest.fail(f"the first result came after {took_s:.1f} s")
        for command in commands:
            assert command.end() == 0, command.said

    check_output(last_lines(shown, 1 << 24), stats.values())
    assert "Traceback" not in "".join(command.said for command in commands)
    set_back = re.search(r"the clock was set back by (\d+) s", commands[-1].said)
    assert HOUR_S - 30 <= int(set_back[1]) <= HOUR_S


def lines_at(path, is_wanted):
    """The lines of a file of results whose stamps are wanted."""
    return [line for line in last_lines(path, 1 << 24) if is_wanted(line["stamp_ns"])]


def check_output(lines, stats):
    """Ages and durations are plausible, and no frame is shown twice or out of order."""
    ages_ms = [line["age_ms"] for line in lines]
    assert min(ages_ms) >= 0
    assert max(ages_ms) < MOST_MS
    seqs = [line["seq"] for line in lines]
    assert seqs == sorted(set(seqs))
    for path in stats:
        figures = json_of(path)
        assert 0 <= figures["age_ms"]["p50"] <= figures["age_ms"]["max"] < MOST_MS
        assert figures["seconds"] < HOUR_S / 2
