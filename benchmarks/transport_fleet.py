"""Camera, detector and viewer as three processes, against the same in one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "scene:?size=1280x720&fps=60"
"""Faster than the detector, so that this decides; both drop what it has no time for."""
START_S = 15
END_S = 20


def process_figure(folder: Path, rounds: int, seconds: float) -> Figure:
    """Results a second at the viewer over those of the single process."""
    ratios, three, single = [], [], []
    for _ in range(rounds):
        single.append(run_single(folder, seconds))
        three.append(run_three(folder, seconds))
        ratios.append(three[-1] / single[-1])
    return Figure(
        "camera, detector and viewer in three processes / in one",
        float(np.median(ratios)),
        "x",
        0.9,
        detail=f"{np.median(three):.1f} against {np.median(single):.1f} results/s, "
        f"ratios {min(ratios):.2f} to {max(ratios):.2f}",
    )


def run_single(folder: Path, seconds: float) -> float:
    found = folder / "single.jsonl"
    _run("run", SOURCE, "--jsonl", str(found), "--duration", f"{seconds:g}").wait()
    return _rate(found, seconds)


def run_three(folder: Path, seconds: float) -> float:
    frames, results = f"zmq+ipc://{folder}/frames", f"zmq+ipc://{folder}/results"
    found = folder / "three.jsonl"
    view = ["--subscribe", results, "--jsonl", str(found), "--duration", f"{seconds + START_S:g}"]
    processes = [
        _run("detect", "--subscribe", frames, "--publish", results),
        _run("camera", SOURCE, "--publish", frames),
        _run("view", *view),
    ]
    processes[-1].wait()
    for process in processes[:-1]:
        process.send_signal(signal.SIGINT)
    for process in processes[:-1]:
        process.wait(END_S)
    return _rate(found, seconds)


def _run(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pipeline.cli", *arguments, "-q"], cwd=ROOT)


def _rate(found: Path, seconds: float) -> float:
    """Results a second by the frames' stamps, over the last half, when all is under way."""
    lines = found.read_text().splitlines()
    stamps = np.array([json.loads(line)["stamp_ns"] for line in lines]) / 1e9
    end_s = stamps.max()
    found.unlink()
    return float((stamps > end_s - seconds / 2).sum() / (seconds / 2))
