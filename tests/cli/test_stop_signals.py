"""What `StopSignals` interrupts, and what it lets finish."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from pipeline.cli.signals import NUDGE, Interrupted, StopSignals

LIMIT_S = 60.0  # for a wait that only a signal ends


def write_on_and_on(pipe) -> None:
    while True:
        pipe.write(bytes(1 << 20))


@pytest.mark.parametrize("is_running", [False, True], ids=["opening", "running"])
def test_a_signal_delivered_to_another_thread_ends_a_wait(unread, wait_until_full, is_running):
    done = []

    def take_a_signal() -> None:
        wait_until_full(unread)  # by then the main thread waits and runs no handler
        signal.raise_signal(signal.SIGTERM)

    taker = threading.Thread(target=take_a_signal)
    with StopSignals() as signals:
        if is_running:
            signals.stop = lambda: done.append("stop")
        taker.start()
        with signals.interruptible():
            write_on_and_on(unread)
    taker.join()
    assert done == ["stop"] * is_running


def test_a_signal_ends_a_wait_that_begins_after_it(unread):
    done = []
    with StopSignals() as signals:
        signals.stop = lambda: done.append("stop")
        signal.raise_signal(signal.SIGINT)
        with signals.interruptible():
            write_on_and_on(unread)
    assert done == ["stop"]


def test_during_a_run_only_writing_is_interrupted(monkeypatch):
    monkeypatch.setattr("pipeline.cli.signals.PATIENCE_S", 0.1)
    done = []
    with StopSignals() as signals:
        signals.stop = lambda: done.append("stop")
        with signals.interruptible():
            done.append("written")
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(0.5)
        done.append("counted")
    assert done == ["written", "stop", "counted"]


def test_closing_is_not_interrupted(monkeypatch):
    monkeypatch.setattr("pipeline.cli.signals.PATIENCE_S", 0.0)
    asked = []
    with StopSignals() as signals, signals.interruptible():
        signals.stop = lambda: asked.append("stop")
        signals.begin_closing()
        signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(0.3)
        asked.append("closed")
    with StopSignals() as signals, signals.interruptible():
        signals.stop = lambda: (asked.append("stop"), signals.begin_closing())
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(NUDGE)  # which was sent already
        asked.append("closed too")
    assert asked == ["closed", "stop", "closed too"]


def test_a_signal_during_an_import_is_a_stop(vision, monkeypatch):
    with StopSignals():
        raise ImportError("initialization failed") from Interrupted()

    def interrupted():
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("pipeline.inference.registry.installed_models", interrupted)
    outcome = vision("models", "list")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


class Swallows:
    """Its destructor gets a signal, and exceptions of destructors are lost."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_during_a_destructor_still_stops(monkeypatch):
    lost, waited = [], []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    with StopSignals():
        made = [Swallows()]
        made.clear()
        assert lost
        waited.append(threading.Event().wait(LIMIT_S))
    assert not waited


def test_stop_is_called_for_a_signal_that_came_before_it_was_set(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    calls = []
    with StopSignals() as signals:
        made = [Swallows()]
        made.clear()
        signals.stop = lambda: calls.append("stop")
        assert calls == ["stop"]


def test_a_signal_before_a_command_begins_is_a_stop(vision, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.main.app", interrupted)
    outcome = vision("models", "list")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
