"""Nodes in processes of their own, with their logs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
"""The timeout of every wait; nothing should take that long."""


class NodeProcess:
    """A process and its log."""

    def __init__(self, command: list[str], environment: dict[str, str], lock=None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            pass_fds=[] if lock is None else [lock.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def log(self) -> str:
        """The output of the process so far."""
        with self._news:
            return "\n".join(self._lines)

    def count(self, pattern: str) -> int:
        """The number of lines that match the pattern."""
        with self._news:
            return sum(re.search(pattern, line) is not None for line in self._lines)

    def wait_for_log(self, pattern: str, timeout_s: float = WAIT_S) -> str:
        """The first line that matches the pattern; fails if the process ends without one."""

        def found() -> str | None:
            return next((line for line in self._lines if re.search(pattern, line)), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), timeout_s)
            line = found()
        assert line is not None, f"no {pattern!r} within {timeout_s:g} s in:\n{self.log}"
        return line

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end; returns the exit code. The log is complete then."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self, number: int = signal.SIGINT, timeout_s: float = WAIT_S) -> int:
        """Send the signal and wait; returns the exit code."""
        self.send(number)
        return self.wait(timeout_s)

    def close(self) -> None:
        """End the process and print its log, which pytest shows for a failed test."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(5)
        sys.stdout.write(f"--- {' '.join(self._process.args)}\n{self.log}\n")


class Starter:
    """Starts processes and ends them."""

    def __init__(self, folder: Path, domain_lock) -> None:
        self._folder = folder
        self._domain_lock = domain_lock
        self._started: list[NodeProcess] = []

    def start(self, *command: object, **variables: object) -> NodeProcess:
        """Start a command with the environment of this run and further `variables`."""
        logs = self._folder / "log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(logs)}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment |= {name: str(value) for name, value in variables.items()}
        process = NodeProcess([str(part) for part in command], environment, self._domain_lock)
        self._started.append(process)
        return process

    def start_node(
        self,
        namespace: str,
        module: str,
        parameters: dict[str, object] | None = None,
        *arguments: str,
        name: str | None = None,
        variables: dict[str, object] | None = None,
    ) -> NodeProcess:
        """Start `python -m nodes.MODULE`, or a Python file with the same arguments."""
        file = self._folder / f"parameters-{len(self._started)}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters or {}}}))
        given = ["-r", f"__ns:={namespace}", *arguments]
        if name is not None:
            given += ["-r", f"__node:={name}"]
        if parameters:
            given += ["--params-file", str(file)]
        what = [module] if module.endswith(".py") else ["-m", f"nodes.{module}"]
        return self.start(sys.executable, *what, "--ros-args", *given, **(variables or {}))

    def close(self) -> None:
        for process in reversed(self._started):
            process.close()
