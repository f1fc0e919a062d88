"""SIGINT and SIGTERM on real processes: a prompt end, and files that can be read."""

from __future__ import annotations

import array
import fcntl
import json
import signal
import termios
import time

import cv2
import pytest

PROMPT_S = 2.0  # how long a stop may take
START_S = 120.0  # a cold cache is compiled first

STOPPING = [signal.SIGINT, signal.SIGTERM]
IDS = ["SIGINT", "SIGTERM"]


def waiting_bytes(pipe) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def wait_until_full(pipe) -> None:
    """Until nothing more has come into a pipe that nobody reads for as long as many frames take."""
    seen, since, deadline = -1, time.monotonic(), time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (count := waiting_bytes(pipe)) != seen:
            seen, since = count, time.monotonic()
        elif seen > 0 and time.monotonic() - since > 1.5:
            return
        time.sleep(0.05)
    pytest.fail("the pipe never filled")


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_a_run_in_time_and_its_files_can_be_read(start, tmp_path, number):
    process = start(
        *("run", "scene:", "--jsonl", "-", "--record", "a.mp4", "--stats", "a.json"),
    )
    seen = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    sent = time.monotonic()
    rest, errors = process.communicate(timeout=30)
    assert time.monotonic() - sent < PROMPT_S
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    lines = [json.loads(line) for line in b"".join([*seen, rest]).splitlines()]
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["processed"] == len(lines)
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[0]


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_the_wait_for_a_source(start, number):
    process = start("run", "63", "--retry")
    assert b"trying again" in process.stderr.readline()
    process.send_signal(number)
    sent = time.monotonic()
    process.communicate(timeout=30)
    assert time.monotonic() - sent < PROMPT_S
    assert process.returncode == 0


def test_a_reader_that_does_not_read_holds_up_no_stop(start, tmp_path):
    process = start("run", "scene:?fps=0", "--jsonl", "-", "--stats", "a.json")
    wait_until_full(process.stdout)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.wait(timeout=30)
    assert time.monotonic() - sent < PROMPT_S
    assert process.returncode == 0
    assert json.loads((tmp_path / "a.json").read_text())["processed"] > 0


def test_a_second_signal_stops_at_once(start, tmp_path):
    process = start("run", "scene:?fps=0", "--jsonl", "-", "--stats", "a.json")
    wait_until_full(process.stdout)
    process.send_signal(signal.SIGINT)
    while _catches(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    assert not (tmp_path / "a.json").exists()


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel sees it."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_reader_that_has_gone_ends_the_run_without_an_error(start):
    process = start("run", "scene:", "--quiet", "--jsonl", "-")
    assert json.loads(process.stdout.readline())["seq"] >= 0
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
