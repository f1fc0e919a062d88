"""SIGINT and SIGTERM end real processes promptly, and leave files that can be read."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import cv2
import psutil
import pytest

from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

PROMPT_S = 2.0  # for a stop; times `crowding` on a busy machine
START_S = 120.0  # a cold cache is compiled first
TICK_S = 0.05
LIMIT_S = 60.0  # for runs without an end

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
IDS = ["SIGINT", "SIGTERM", "SIGHUP"]


@pytest.fixture
def end_in_time(crowding):
    """Wait for a process to end within the time of a stop; returns its output if `read`.

    Counts ticks in which the process could run, so that a suspended process is not slow.
    """

    def end_in_time(process: subprocess.Popen, *, read: bool = True) -> tuple[bytes, bytes]:
        ticks, deadline = 0, time.monotonic() + LIMIT_S
        while True:
            try:
                if read:
                    output = process.communicate(timeout=TICK_S)
                else:
                    output = (b"", b"")
                    process.wait(TICK_S)
            except subprocess.TimeoutExpired:
                ticks += psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
                assert time.monotonic() < deadline, "the process does not end"
                continue
            assert ticks * TICK_S < PROMPT_S * crowding()
            return output

    return end_in_time


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_a_run_in_time_and_its_files_can_be_read(
    start, tmp_path, number, end_in_time
):
    process = start(*("run", "scene:", "--jsonl", "-", "--record", "a.mp4", "--stats", "a.json"))
    seen = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    rest, errors = end_in_time(process)
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    lines = [json.loads(line) for line in b"".join([*seen, rest]).splitlines()]
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["processed"] == len(lines)
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[0]


def test_a_terminal_that_closes_ends_a_run_and_its_files_can_be_read(start, tmp_path, end_in_time):
    """The shell passes the signal on that the kernel has already sent."""
    ours, theirs = pty.openpty()
    process = start(
        *("run", "scene:", "--jsonl", "-", "--record", "a.mp4", "--stats", "a.json"),
        stdin=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    for _ in range(5):
        process.stdout.readline()
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    end_in_time(process)
    assert process.returncode == 0
    assert json.loads((tmp_path / "a.json").read_text())["processed"] >= 5
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[0]


IGNORING = """
import signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
from pipeline.cli.__main__ import main
main()
"""


def test_signals_that_a_program_was_started_to_ignore_do_not_stop_it(start, end_in_time):
    process = start("run", "scene:", "--jsonl", "-", program=("-c", IGNORING))
    process.stdout.readline()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    for _ in range(5):
        assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    errors = end_in_time(process)[1]
    assert process.returncode == 0, errors


def test_children_of_tests_do_not_inherit_ignored_signals():
    """As when the suite runs under `nohup`, or in the background of a script."""
    ignoring = ("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh")
    suite = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    ended = subprocess.run(
        [*ignoring, *suite, "-k", "wait_for_a_source"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_the_wait_for_a_source(start, number, end_in_time):
    process = start("run", "63", "--retry")
    assert b"trying again" in process.stderr.readline()
    process.send_signal(number)
    end_in_time(process)
    assert process.returncode == 0


def test_a_reader_that_does_not_read_does_not_delay_a_stop(
    start, tmp_path, unread, wait_until_full, end_in_time
):
    process = start(
        *("run", "scene:?fps=0", "--every-frame", "--jsonl", "-", "--stats", "a.json"),
        stdout=unread,
    )
    wait_until_full(unread)
    process.send_signal(signal.SIGINT)
    end_in_time(process, read=False)
    assert process.returncode == 0
    assert json.loads((tmp_path / "a.json").read_text())["processed"] > 0


PATIENT = """
import sys
import pipeline.cli.signals
from pipeline.cli.main import main

pipeline.cli.signals.PATIENCE_S = 1e9
sys.exit(main())
"""


def test_a_second_signal_stops_at_once(start, tmp_path, unread, wait_until_full):
    process = start(
        *("run", "scene:?fps=0", "--every-frame", "--jsonl", "-", "--stats", "a.json"),
        program=("-c", PATIENT),
        stdout=unread,
    )
    wait_until_full(unread)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: not _catches(process.pid, signal.SIGTERM), "the first signal", LIMIT_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT_S) == -signal.SIGTERM
    assert not (tmp_path / "a.json").exists()


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel sees it."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A yolov4-tiny with so large an input that one frame takes longer than a stop may."""
    pytest.importorskip("onnx")
    from pipeline.zoo.darknet.importer import import_model  # noqa: PLC0415 - needs onnx

    place = ROOT / "tests" / "zoo" / "darknet" / "darknet_reference.py"
    spec = importlib.util.spec_from_file_location("darknet_reference_for_signals", place)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    folder = tmp_path_factory.mktemp("slow")
    layers = reference.yolov4_tiny(80, 32)
    config = reference.write_config(folder / "slow.cfg", layers, 1664, 1664)
    weights = reference.Network(layers).write_weights(folder / "slow.weights")
    return import_model(config, weights, folder / "slow.onnx").path


@pytest.mark.parametrize("policy", ["--latest", "--every-frame"])
def test_a_signal_ends_a_run_in_the_middle_of_a_slow_model(
    start, tmp_path, slow_model, policy, end_in_time
):
    process = start(
        *("run", "scene:", policy, "--detector", slow_model, "--classifier", "none"),
        *("--jsonl", "-", "--stats", "a.json"),
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    errors = end_in_time(process)[1]
    assert process.returncode == 0, errors
    assert b"terminate" not in errors
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))


def test_a_signal_ends_a_run_whose_source_hangs(start, tmp_path, end_in_time):
    process = start(
        *("run", "scene:?size=320x240&hang_after=1ms", "--jsonl", "-", "--stats", "a.json"),
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline()  # the only line; the next frame never comes
    process.send_signal(signal.SIGINT)
    end_in_time(process)
    assert process.returncode == 0
    assert (tmp_path / "a.json").exists()


HIT_AT_THE_END = """
import signal
import pipeline.cli.console
from pipeline.cli.__main__ import main

pipeline.cli.console.finish = lambda: signal.raise_signal(signal.SIGINT)
main()
"""


def test_a_signal_during_the_exit_prints_no_traceback(start):
    process = start("models", "list", program=("-c", HIT_AT_THE_END))
    errors = process.communicate(timeout=START_S)[1]
    assert (process.returncode, errors) == (130, b"")


def test_a_signal_while_packages_are_imported_prints_no_traceback(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr == b""
