"""Fixtures for all tests: test data, and measures of a busy machine."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pipeline.runtime.signals import STOP_SIGNALS

from . import footage, parts
from .faults import processes

# The time that an example takes depends on the machine more than on the tested code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_configure():
    """Let processes that tests start have default signals, also if this one ignores some.

    A script ignores SIGINT for what it runs in the background, and `nohup` ignores SIGHUP; both are
    inherited. A handler that does nothing is not: a new program gets the default in its place.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config, items):
    parts.leave_out(items, lambda missing: config.hook.pytest_deselected(items=missing))


def pytest_unconfigure(config):
    """Count the tests that did not run, below everything else."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter and (line := parts.summary(reporter.stats.get("skipped", []))):
        reporter.write_line(f"not run: {line}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test images, videos and models; tests that use it are left out without it."""
    return parts.DATA.resolve()


@pytest.fixture(scope="session", params=["made", *(["filmed"] if parts.HAVE_DATA else [])])
def video_of_objects(request, tmp_path_factory) -> footage.Footage:
    """A video in which the models find objects."""
    if request.param == "filmed":
        return footage.filmed(parts.DATA)
    return footage.make(tmp_path_factory.mktemp("footage") / "made.mp4")


@pytest.fixture(scope="session")
def crowding():
    """A function: how many times longer work takes now than on an idle machine; at least 1.

    For time limits, which other load on the machine exceeds.
    """
    return processes.crowding


class Stalls:
    """Measures the time during which this process did not run, since the object was created."""

    TICK_S, LEAST_S = 0.02, 0.05

    def __init__(self) -> None:
        self._total_s = 0.0
        self._ended = threading.Event()
        self._ticked = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def total_s(self) -> float:
        """Seconds so far, in stalls of at least `LEAST_S`."""
        with self._ticked:
            self._ticked.wait()  # a stall that has just ended is counted at the next tick
            return self._total_s

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        before_s = time.monotonic()
        while not self._ended.wait(self.TICK_S):
            late_s = time.monotonic() - before_s - self.TICK_S
            before_s += late_s + self.TICK_S
            with self._ticked:
                self._total_s += late_s if late_s > self.LEAST_S else 0.0
                self._ticked.notify_all()


@pytest.fixture
def stalls():
    """The time that tests subtract from durations, because the process did not run."""
    stalls = Stalls()
    yield stalls
    stalls.end()
