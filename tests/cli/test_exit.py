"""How the process ends: exit codes, closed streams and full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0  # a cold cache is compiled first


STUCK = """
import sys, threading
import numpy as np
import onnxruntime as ort
from pipeline.cli.main import main

session = ort.InferenceSession(sys.argv.pop(), providers=["CPUExecutionProvider"])
image = {session.get_inputs()[0].name: np.zeros((1, 416, 416, 3), np.uint8)}
inside = threading.Event()


def call():
    inside.set()
    while True:
        session.run(None, image)


threading.Thread(target=call, daemon=True).start()
inside.wait()
sys.exit(main())
"""


def test_a_thread_inside_a_model_does_not_abort_the_exit():
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


def test_a_library_that_unloads_slowly_does_not_delay_the_exit():
    ended = subprocess.run(
        [sys.executable, "-c", SLOW_END, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 0
    assert b"vision" in ended.stdout


def test_output_to_a_full_disk_is_a_fault(start):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        process = start("models", "list", stdout=full)
    errors = process.communicate(timeout=START_S)[1]
    assert process.returncode == 1
    assert errors == b"vision: error: standard output: no space left on the device\n"


def test_a_reader_that_is_gone_ends_the_run_without_an_error(start):
    process = start("run", "scene:", "--quiet", "--jsonl", "-")
    assert json.loads(process.stdout.readline())["seq"] >= 0
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("closed", "said"), [(">&-", "vision: error: standard output"), ("2>&-", "")]
)
def test_no_file_reuses_the_descriptor_of_a_closed_standard_stream(tmp_path, closed, said):
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
