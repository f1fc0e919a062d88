"""SIGINT and SIGTERM on real processes: a prompt end, and files that can be read."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import psutil
import pytest

from pipeline.cli.signals import NUDGE, Interrupted, StopSignals

ROOT = Path(__file__).resolve().parents[2]

PROMPT_S = 2.0  # how long a stop may take; times `crowding`, where others use the processors
START_S = 120.0  # a cold cache is compiled first

STOPPING = [signal.SIGINT, signal.SIGTERM]
IDS = ["SIGINT", "SIGTERM"]


TICK_S = 0.05
LIMIT_S = 60.0  # for what has no end otherwise


@pytest.fixture
def end_in_time(crowding):
    """Wait for the end of a process, as long as a stop may take; gives what it said, where `read`.

    What counts are ticks, in which the process could run: one that stands still, or whose machine
    does, is not slow.
    """

    def end_in_time(process: subprocess.Popen, *, read: bool = True) -> tuple[bytes, bytes]:
        ticks, deadline = 0, time.monotonic() + LIMIT_S
        while True:
            try:
                if read:
                    said = process.communicate(timeout=TICK_S)
                else:
                    said = (b"", b"")
                    process.wait(TICK_S)
            except subprocess.TimeoutExpired:
                ticks += psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
                assert time.monotonic() < deadline, "it does not end at all"
                continue
            assert ticks * TICK_S < PROMPT_S * crowding()
            return said

    return end_in_time


@pytest.fixture
def unread():
    """The end of a pipe that takes one line and is never read; at last its reader goes."""
    ends = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    reader, writer = (os.fdopen(end, mode, 0) for end, mode in zip(ends, ("rb", "wb"), strict=True))
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    rescue = threading.Timer(START_S + LIMIT_S, reader.close)
    rescue.start()
    yield writer
    assert not reader.closed, "the signal was not noticed until the pipe broke"
    rescue.cancel()
    writer.close()
    reader.close()


def wait_until_full(pipe) -> None:
    """Until a pipe takes no more: whoever writes to it waits, or will with the next line."""
    deadline = time.monotonic() + START_S
    while select.select([], [pipe], [], 0)[1]:
        assert time.monotonic() < deadline, "too few lines to fill a pipe"
        time.sleep(TICK_S)


def test_a_signal_that_hits_a_package_being_loaded_is_a_stop_all_the_same(vision, monkeypatch):
    with StopSignals():
        raise ImportError("initialization failed") from Interrupted()

    def broken_off():
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("pipeline.inference.locate.installed_models", broken_off)
    outcome = vision("models", "list")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_a_run_in_time_and_its_files_can_be_read(
    start, tmp_path, number, end_in_time
):
    process = start(
        *("run", "scene:", "--jsonl", "-", "--record", "a.mp4", "--stats", "a.json"),
    )
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


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_the_wait_for_a_source(start, number, end_in_time):
    process = start("run", "63", "--retry")
    assert b"trying again" in process.stderr.readline()
    process.send_signal(number)
    end_in_time(process)
    assert process.returncode == 0


def test_a_reader_that_does_not_read_holds_up_no_stop(start, tmp_path, unread, end_in_time):
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


def test_a_second_signal_stops_at_once(start, tmp_path, unread):
    process = start(
        *("run", "scene:?fps=0", "--every-frame", "--jsonl", "-", "--stats", "a.json"),
        program=("-c", PATIENT),
        stdout=unread,
    )
    wait_until_full(unread)
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + LIMIT_S
    while _catches(process.pid, signal.SIGTERM):
        assert time.monotonic() < deadline, "the first signal was not noticed"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT_S) == -signal.SIGTERM
    assert not (tmp_path / "a.json").exists()


def write_on_and_on(pipe) -> None:
    while True:
        pipe.write(bytes(1 << 20))


@pytest.mark.parametrize("is_running", [False, True], ids=["opening", "running"])
def test_a_signal_that_another_thread_is_given_ends_a_wait(unread, is_running):
    done = []

    def take_a_signal() -> None:
        wait_until_full(unread)  # by now the main thread waits, and handles nothing before the end
        signal.raise_signal(signal.SIGTERM)

    taker = threading.Thread(target=take_a_signal)
    with StopSignals() as signals:
        if is_running:
            signals.stop = lambda: done.append("stop")
        taker.start()
        with signals.breakable():
            write_on_and_on(unread)
    taker.join()
    assert done == ["stop"] * is_running


def test_a_signal_ends_a_wait_that_begins_after_it(unread):
    done = []
    with StopSignals() as signals:
        signals.stop = lambda: done.append("stop")
        signal.raise_signal(signal.SIGINT)
        with signals.breakable():
            write_on_and_on(unread)
    assert done == ["stop"]


def test_in_a_run_nothing_but_writing_is_broken_off(monkeypatch):
    monkeypatch.setattr("pipeline.cli.signals.PATIENCE_S", 0.1)
    done = []
    with StopSignals() as signals:
        signals.stop = lambda: done.append("stop")
        with signals.breakable():
            done.append("written")
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(0.5)
        done.append("counted")
    assert done == ["written", "stop", "counted"]


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A yolov4-tiny of so large an input that a frame takes longer than a stop may take."""
    pytest.importorskip("onnx")
    from pipeline.zoo.darknet.importer import import_model  # noqa: PLC0415 - takes onnx

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
    assert process.stdout.readline()  # the only one: the next frame never comes
    process.send_signal(signal.SIGINT)
    end_in_time(process)
    assert process.returncode == 0
    assert (tmp_path / "a.json").exists()


def test_while_things_are_being_closed_no_signal_breaks_in(monkeypatch):
    monkeypatch.setattr("pipeline.cli.signals.PATIENCE_S", 0.0)
    asked = []
    with StopSignals() as signals, signals.breakable():
        signals.stop = lambda: asked.append("stop")
        signals.be_patient()
        signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(0.3)
        asked.append("closed")
    with StopSignals() as signals, signals.breakable():
        signals.stop = lambda: (asked.append("stop"), signals.be_patient())
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(NUDGE)  # on its way already when the patience began
        asked.append("closed too")
    assert asked == ["closed", "stop", "closed too"]


STUCK = """
import sys, threading
import numpy as np
import onnxruntime as ort
from pipeline.cli.main import main

session = ort.InferenceSession(sys.argv.pop(), providers=["CPUExecutionProvider"])
picture = {session.get_inputs()[0].name: np.zeros((1, 416, 416, 3), np.uint8)}
inside = threading.Event()


def call():
    inside.set()
    while True:
        session.run(None, picture)


threading.Thread(target=call, daemon=True).start()
inside.wait()
sys.exit(main())
"""


def test_a_thread_left_inside_a_model_does_not_turn_the_end_into_an_abort():
    model = ROOT / "models" / "yolov4-tiny-int8.onnx"
    ended = subprocess.run(
        [sys.executable, "-c", STUCK, "models", "list", model],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"yolov4-tiny-int8" in ended.stdout
    assert ended.stderr == b""


SLOW_END = """
import atexit, sys, threading
from pipeline.cli.main import main

atexit.register(threading.Event().wait)
sys.exit(main())
"""


def test_a_library_that_takes_long_to_end_holds_up_no_end():
    ended = subprocess.run(
        [sys.executable, "-c", SLOW_END, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 0
    assert b"vision" in ended.stdout


HIT_AT_THE_END = """
import signal
import pipeline.cli.console
from pipeline.cli.__main__ import main

pipeline.cli.console.finish = lambda: signal.raise_signal(signal.SIGINT)
main()
"""


def test_a_signal_in_the_last_moment_leaves_no_traceback(start):
    process = start("models", "list", program=("-c", HIT_AT_THE_END))
    errors = process.communicate(timeout=START_S)[1]
    assert (process.returncode, errors) == (130, b"")


def test_output_that_does_not_fit_the_disk_is_a_fault(start):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        process = start("models", "list", stdout=full)
    errors = process.communicate(timeout=START_S)[1]
    assert process.returncode == 1
    assert errors == b"vision: error: standard output: no space left on the device\n"


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel sees it."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_reader_that_has_gone_ends_the_run_without_an_error(start):
    process = start("run", "scene:", "--quiet", "--jsonl", "-")
    assert json.loads(process.stdout.readline())["seq"] >= 0
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


class Swallows:
    """Something whose destructor a signal hits, where an exception is lost."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_is_lost_in_a_destructor_stops_all_the_same(monkeypatch):
    lost, waited = [], []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    with StopSignals():
        made = [Swallows()]
        made.clear()
        assert lost
        waited.append(threading.Event().wait(LIMIT_S))
    assert not waited


def test_what_stops_a_run_is_called_where_a_signal_was_lost_before(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    calls = []
    with StopSignals() as signals:
        made = [Swallows()]
        made.clear()
        signals.stop = lambda: calls.append("stop")
        assert calls == ["stop"]


def test_a_signal_while_packages_are_loaded_leaves_no_traceback(tmp_path):
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


@pytest.mark.parametrize(
    ("closed", "said"), [(">&-", "vision: error: standard output"), ("2>&-", "")]
)
def test_a_closed_standard_stream_is_taken_by_nothing_else(tmp_path, closed, said):
    command = f'"{sys.executable}" -m pipeline.cli run scene:?frames=2 --classifier none --jsonl - '
    ended = subprocess.run(
        ["sh", "-c", command + closed],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=START_S,
        check=False,
        text=True,
    )
    assert "Traceback" not in ended.stderr
    assert said in ended.stderr
    assert ended.returncode == (1 if said else 0)
    assert len(ended.stdout.splitlines()) == (0 if said else 2)


def test_a_signal_before_a_command_begins_is_a_stop(vision, monkeypatch):
    def broken_off(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.main.app", broken_off)
    outcome = vision("models", "list")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
