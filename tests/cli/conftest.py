"""Running the command as users do: inside this process, or as a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
COMMAND = ("-m", "pipeline.cli")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def vision(capfd, monkeypatch):
    """Run the command in this process; gives its exit code and what it printed."""
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
    """Start the command as a process in an empty folder; it is ended with the test.

    One that says nothing more is ended before, so that a test that reads what it says cannot hang.
    What it says is not buffered here: `communicate` gives all that was not read line by line.
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
