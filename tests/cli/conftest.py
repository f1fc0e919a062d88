"""Runs the command as users do: inside this process, or as a separate process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pty
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
TICK_S = 0.05
COMMAND = ("-m", "pipeline.cli")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _hide_test_data_from_commands(monkeypatch):
    monkeypatch.delenv("VISION_TEST_DATA", raising=False)  # not a setting of the command


@pytest.fixture
def vision(capfd, monkeypatch):
    """Run the command in this process; gives its exit code and output."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    for place in ("pipeline", "nodes"):
        logging.getLogger(place).setLevel(logging.NOTSET)


@pytest.fixture
def start(tmp_path):
    """Start the command as a process in an empty folder; it is killed at the end of the test.

    A process that hangs is killed earlier, so that a test that reads its output cannot hang. Output
    is not buffered here: `communicate` gives what was not read line by line.
    """
    processes, guards = [], []

    def start(*arguments: object, program=COMMAND, **settings) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            bufsize=0,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings},
        )
        processes.append(process)
        guards.append(threading.Timer(3 * TIMEOUT_S, process.kill))
        guards[-1].daemon = True
        guards[-1].start()
        return process

    yield start
    for guard in guards:
        guard.cancel()
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start_on_terminal(start):
    """Run the command with a terminal as standard error; gives the exit code and what it shows."""

    def run(*arguments: object) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = start(*arguments, stderr=theirs)
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # as Linux reports a closed terminal
            while part := os.read(ours, 65536):
                parts.append(part)
        os.close(ours)
        return process.wait(timeout=TIMEOUT_S), b"".join(parts).decode()

    return run


@pytest.fixture
def unread():
    """The write end of a pipe that holds one line and is never read."""
    ends = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    reader, writer = (os.fdopen(end, mode, 0) for end, mode in zip(ends, ("rb", "wb"), strict=True))
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    rescue = threading.Timer(2 * TIMEOUT_S, reader.close)
    rescue.start()
    yield writer
    assert not reader.closed, "the signal was not noticed until the pipe broke"
    rescue.cancel()
    writer.close()
    reader.close()


@pytest.fixture
def wait_until_full():
    """Wait until a pipe is full, so that its writer waits now or at the next line."""

    def wait_until_full(pipe) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while select.select([], [pipe], [], 0)[1]:
            assert time.monotonic() < deadline, "too few lines to fill the pipe"
            time.sleep(TICK_S)

    return wait_until_full
