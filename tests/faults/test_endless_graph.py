"""Calls into libraries that never return: signals end the process all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import cv2
import pytest

from ..endless_models import endless
from . import processes

PROMPT_S = 2.0
START_S = 120.0  # a cold cache is compiled first
RUN = ("run", "scene:?size=320x240")
DECODER = "simplejpeg.decode_jpeg" if find_spec("simplejpeg") else "cv2.imdecode"
HANG = """
import ctypes, itertools, sys
import {module}

mutex, calls, original = ctypes.create_string_buffer(64), itertools.count(1), {module}.{call}

def never_returns(*arguments, **named):
    if next(calls) < {good}:
        return original(*arguments, **named)
    print("inside", flush=True)
    for _ in range(2):  # the second lock waits, and no signal ends it
        ctypes.{library}(None).pthread_mutex_lock(mutex)

{module}.{call} = never_returns
from pipeline.cli.__main__ import main
main()
"""
"""A command whose first call of a function but `good - 1` never returns."""


def hang(call, good=1, library="CDLL"):
    """The program; with `library="PyDLL"` the call keeps every other thread from running."""
    module, _, name = call.rpartition(".")
    return "-c", HANG.format(module=module, call=name, good=good, library=library)


ANNOUNCED = """
from pipeline.inference.session import Model
original = Model.run

def run(model, pixels):
    print("called", flush=True)
    return original(model, pixels)

Model.run = run
from pipeline.cli.__main__ import main
main()
"""
"""A command that prints a line at each call of a model."""


@pytest.fixture
def start(tmp_path):
    """Start a Python program in an empty folder; it is killed at the end of the test."""
    started = []

    def start(*command):
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=tmp_path,
            env={**os.environ, **processes.NICE},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_call(process, number=1):
    """Wait until the model was called so many times, and the last call goes on for a while."""
    for _ in range(number):
        assert process.stdout.readline() == b"called\n", process.communicate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)


def wait_until_inside(process):
    """Wait until the main thread is in the call that never returns."""
    assert process.stdout.readline() == b"inside\n", process.communicate()
    thread = f"/proc/{process.pid}/task/{process.pid}/stat"
    waits = []

    def is_asleep():
        with open(thread) as file:
            waits.append(file.read().rpartition(")")[2].split()[0] == "S")
        return all(waits[-20:]) and len(waits) >= 20

    processes.wait_for(is_asleep, "the call")  # of the main thread or of one that it waits for


def end(process, *numbers):
    """Send the signals and wait; returns the seconds that it took and what was said."""
    for number in numbers[:-1]:
        process.send_signal(number)
        time.sleep(0.3)
    before_s = time.monotonic()
    process.send_signal(numbers[-1])
    said = process.communicate(timeout=START_S)[1].decode()
    return time.monotonic() - before_s, said


BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@BOTH
@pytest.mark.parametrize("task", ["detect", "classify"])
def test_a_signal_ends_a_model_that_never_ends(start, tmp_path, crowding, task, number):
    model = endless(tmp_path / "model.onnx", task)
    option = "--detector" if task == "detect" else "--classifier"
    without = ("--classifier", "none") if task == "detect" else ()
    process = start("-c", ANNOUNCED, *RUN, option, model, *without)
    wait_for_call(process, 1 if task == "detect" else 2)  # the detector comes first
    took_s, said = end(process, number)
    assert took_s < PROMPT_S * crowding()
    assert process.returncode == 0, said
    assert said == ""


def test_a_signal_ends_a_model_that_never_ends_for_some_images(start, tmp_path, crowding):
    model = endless(tmp_path / "model.onnx", "detect", while_bright=True)
    process = start(
        "-c", ANNOUNCED, *RUN, "--detector", model, "--classifier", "none",
        "--stats", "stats.json",
    )  # fmt: skip
    wait_for_call(process, 2)  # the first image is black
    took_s, said = end(process, signal.SIGTERM)
    assert took_s < PROMPT_S * crowding()
    assert process.returncode == 0, said
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["captured"] == stats["dropped"] > 0


@pytest.mark.parametrize("command", ["run", "evaluate", "models"])
def test_a_signal_ends_the_opening_of_a_model_that_never_ends(start, tmp_path, crowding, command):
    arguments = {
        "run": ("run", "scene:"),
        "evaluate": ("evaluate", "yolov4-tiny-int8", tmp_path),
        "models": ("models", "info", "yolov4-tiny-int8"),
    }[command]
    process = start(*hang("onnxruntime.InferenceSession"), *arguments)
    wait_until_inside(process)
    took_s, said = end(process, signal.SIGINT)
    assert took_s < PROMPT_S * crowding()
    assert process.returncode == (0 if command == "run" else 130), said
    assert "Traceback" not in said


def test_files_are_finished_while_the_main_thread_is_in_a_call_that_never_ends(
    start, tmp_path, crowding
):
    process = start(
        *hang("pipeline.output.json_lines.result_to_dict", good=6),
        *("run", "scene:", "--detector", "none", "--jsonl", "lines.jsonl"),
        *("--record", "film.mp4", "--stats", "stats.json"),
    )
    wait_until_inside(process)
    took_s, said = end(process, signal.SIGTERM)
    assert took_s < PROMPT_S * crowding()
    assert process.returncode == 0, said
    assert "a call into a library does not end" in said
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 5
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).read()[0]
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["captured"] == sum(stats[what] for what in ("processed", "dropped", "failed"))
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", "lines.jsonl", "stats.json"}


def test_a_signal_ends_a_recording_that_never_finishes(start, crowding):
    process = start(
        *hang("pipeline.output.video_file._is_readable"),
        *("run", "scene:?size=320x240&frames=5", "--detector", "none", "--record", "film.mp4"),
    )
    wait_until_inside(process)  # which is at the end of the run
    took_s, said = end(process, signal.SIGTERM)
    assert took_s < PROMPT_S * crowding()
    assert "record: did not finish within 1 s and is left behind" in said


@pytest.mark.parametrize(
    ("library", "first", "second"),
    [
        ("CDLL", signal.SIGINT, signal.SIGTERM),
        ("CDLL", signal.SIGTERM, signal.SIGTERM),
        ("PyDLL", signal.SIGINT, signal.SIGINT),
        ("PyDLL", signal.SIGTERM, signal.SIGTERM),
    ],
    ids=["other", "same", "same-without-threads", "same-without-threads-term"],
)
def test_a_second_signal_ends_the_process_at_once_whatever_a_library_does(
    start, crowding, library, first, second
):
    process = start(*hang("onnxruntime.InferenceSession", library=library), "run", "scene:")
    wait_until_inside(process)
    took_s, said = end(process, first, second)
    assert took_s < 0.5 * crowding()
    assert process.returncode in (-second, 128 + second)
    assert said == ""


@pytest.mark.parametrize("command", ["detect", "view"])
def test_a_signal_ends_a_decoder_that_never_returns(start, tmp_path, address, crowding, command):
    camera = processes.Command(
        *("camera", "scene:?size=320x240", "--publish", address, "--payload", "jpeg"),
        folder=tmp_path,
    )
    try:
        camera.await_ready()
        outputs = {
            "detect": ("--publish", f"{address}-found"),
            "view": ("--record", "film.mp4"),
        }[command]
        process = start(*hang(DECODER), command, "--subscribe", address, *outputs)
        wait_until_inside(process)
        took_s, said = end(process, signal.SIGTERM)
        assert took_s < PROMPT_S * crowding()
        assert process.returncode == 0, said
    finally:
        camera.kill()
