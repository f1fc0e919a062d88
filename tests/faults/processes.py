"""The `vision` commands as processes of a test: started, stopped, killed and observed.

These claims depend on the time that a busy machine gives to the processes, and so are retried or
scaled by `crowding`; all others are asserted once:

- the recovery after a kill (`soak`): `TRIES` attempts, and few of them may need a second one
- the ages of results (`soak`, `test_bad_links`): `IN_HAND` messages may be older
- the times on a bad link and after the clock was set back (`test_bad_links`,
  `test_clock_set_back`): `TRIES` attempts
- the time that a stop takes (`tests/cli/test_processes`, `tests/nodes/test_shutdown`) and the rate
  of a limited node (`tests/nodes/test_vision_node`): `TRIES` attempts or a scaled limit
- the rate and the ages beside a stopped viewer (`tests/nodes/test_frozen_viewer`): `TRIES` attempts
- the freshness of the first message after a stop (`tests/transport/zmq/test_stream_counts`,
  `tests/transport/zmq/test_processes`)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import WAIT_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
IN_HAND = 3
"""Messages that may be old, because a process was stopped while it processed one."""
TRIES = 3
NICE = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "PYTHONPATH": str(ROOT)}


def how_many_above(limit: float, values: Iterable[float]) -> int:
    """How many values reach the limit."""
    return sum(value >= limit for value in values)


def crowding(work_s: float = 0.2) -> float:
    """How many times longer work takes on this machine now than on an idle one; at least 1."""
    start_s, start_cpu_s = time.monotonic(), time.thread_time()
    while time.thread_time() - start_cpu_s < work_s:
        pass
    return max((time.monotonic() - start_s) / work_s, 1.0)


class Command:
    """`vision ARGUMENTS...` as a process; a thread notes the lines of its standard error.

    `prefix` goes before the command, as in `ip netns exec NAME`.
    """

    def __init__(
        self,
        *arguments: object,
        folder: Path,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.ready_s: float | None = None
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **NICE, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for line in said:
                self.lines.append(line.rstrip("\n"))
                if "publishing at" in line:
                    self.ready_s = time.monotonic()

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def await_ready(self) -> float:
        """Wait until it publishes; returns since when."""
        wait_for(lambda: self.ready_s or not self.is_alive, "publishing")
        assert self.ready_s is not None, self.said
        return self.ready_s

    def rss_mb(self) -> float:
        with contextlib.suppress(psutil.Error):
            return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)
        return 0.0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        self._listener.join(WAIT_S)

    def end(self, timeout_s: float = WAIT_S) -> int:
        """Send SIGTERM and wait; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.await_end(timeout_s)

    def await_end(self, timeout_s: float = WAIT_S) -> int:
        status = self.process.wait(timeout_s)
        self._listener.join(WAIT_S)
        return status


def json_of(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def last_lines(path: Path, most: int = 65536) -> list[dict[str, Any]]:
    """The newest whole lines of a file of results."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(path.stat().st_size - most, 0)
        file.seek(start)
        whole = file.read().rpartition(b"\n")[0]
    lines = whole.split(b"\n")[1 if start else 0 :]  # the first line may be incomplete
    return [json.loads(line) for line in lines if line[:1] == b"{"]
