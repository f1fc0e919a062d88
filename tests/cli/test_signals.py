"""SIGINT and SIGTERM on real processes: a prompt end, and files that can be read."""

from __future__ import annotations

import array
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import cv2
import pytest

from pipeline.cli.signals import Interrupted, StopSignals

ROOT = Path(__file__).resolve().parents[2]

PROMPT_S = 2.0  # how long a stop may take; times `crowding`, where others use the processors
START_S = 120.0  # a cold cache is compiled first

STOPPING = [signal.SIGINT, signal.SIGTERM]
IDS = ["SIGINT", "SIGTERM"]


def waiting_bytes(pipe) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def wait_until_quiet(pipe) -> None:
    """Until nothing more has come into a pipe that nobody reads for as long as many frames take."""
    seen, since, deadline = -1, time.monotonic(), time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (count := waiting_bytes(pipe)) != seen:
            seen, since = count, time.monotonic()
        elif seen > 0 and time.monotonic() - since > 1.5:
            return
        time.sleep(0.05)
    pytest.fail("the lines never came to an end")


def test_a_signal_that_hits_a_package_being_loaded_is_a_stop_all_the_same(vision, monkeypatch):
    with StopSignals():
        raise ImportError("initialization failed") from Interrupted()

    def broken_off():
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("pipeline.inference.locate.installed_models", broken_off)
    outcome = vision("models", "list")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_a_run_in_time_and_its_files_can_be_read(start, tmp_path, number, crowding):
    process = start(
        *("run", "scene:", "--jsonl", "-", "--record", "a.mp4", "--stats", "a.json"),
    )
    seen = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    sent = time.monotonic()
    rest, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < PROMPT_S * crowding()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    lines = [json.loads(line) for line in b"".join([*seen, rest]).splitlines()]
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["processed"] == len(lines)
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[0]


@pytest.mark.parametrize("number", STOPPING, ids=IDS)
def test_a_signal_ends_the_wait_for_a_source(start, number, crowding):
    process = start("run", "63", "--retry")
    assert b"trying again" in process.stderr.readline()
    process.send_signal(number)
    sent = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - sent < PROMPT_S * crowding()
    assert process.returncode == 0


def test_a_reader_that_does_not_read_holds_up_no_stop(start, tmp_path, crowding):
    process = start("run", "scene:?fps=0", "--jsonl", "-", "--stats", "a.json")
    wait_until_quiet(process.stdout)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.wait(timeout=60)
    assert time.monotonic() - sent < PROMPT_S * crowding()
    assert process.returncode == 0
    assert json.loads((tmp_path / "a.json").read_text())["processed"] > 0


def test_a_second_signal_stops_at_once(start, tmp_path):
    process = start("run", "scene:?fps=0", "--jsonl", "-", "--stats", "a.json")
    wait_until_quiet(process.stdout)
    process.send_signal(signal.SIGINT)
    while _catches(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert not (tmp_path / "a.json").exists()


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A yolov4-tiny of so large an input that a frame takes longer than a stop may take."""
    pytest.importorskip("onnx")
    from pipeline.zoo.darknet import import_model  # noqa: PLC0415 - takes onnx

    place = ROOT / "tests" / "zoo" / "darknet_reference.py"
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
    start, tmp_path, slow_model, policy, crowding
):
    process = start(
        *("run", "scene:", policy, "--detector", slow_model, "--classifier", "none"),
        *("--jsonl", "-", "--stats", "a.json"),
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    assert time.monotonic() - sent < PROMPT_S * crowding()
    assert b"terminate" not in errors
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))


def test_a_signal_ends_a_run_whose_source_hangs(start, tmp_path, crowding):
    process = start(
        *("run", "scene:?size=320x240&hang_after=0.5s", "--jsonl", "-", "--stats", "a.json"),
        stderr=subprocess.DEVNULL,
    )
    wait_until_quiet(process.stdout)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - sent < PROMPT_S * crowding()
    assert (tmp_path / "a.json").exists()


def test_while_things_are_being_closed_no_signal_breaks_in():
    asked = []
    with StopSignals() as signals:
        signals.stop = lambda: asked.append("stop")
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        signals.be_patient()
        os.kill(os.getpid(), signal.SIGALRM)  # on its way already when the patience began
        asked.append("closed")
    with StopSignals() as signals:
        signals.stop = lambda: asked.append("stop again")
        signals.be_patient()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        asked.append("closed too")
    assert asked == ["stop", "closed", "closed too"]


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


def test_output_that_does_not_fit_the_disk_is_a_fault(start):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        process = start("models", "list", stdout=full)
    errors = process.communicate(timeout=START_S)[1]
    assert process.returncode == 1
    assert errors == b"vision: error: standard output: no space is left to write it\n"


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


def test_a_signal_that_is_lost_in_a_destructor_stops_all_the_same(monkeypatch, crowding):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    sent = time.monotonic()
    with StopSignals():
        made = [Swallows()]
        made.clear()
        assert lost
        threading.Event().wait(30)
    assert time.monotonic() - sent < PROMPT_S * crowding()


def test_a_signal_while_packages_are_loaded_leaves_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
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
