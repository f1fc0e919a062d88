"""Memory of a long run and of one that compiles, and the time from the start to a result."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure

WARM_MB, COMPILING_MB = 260.0, 320.0
"""Limits of resident memory: with machine code on disk, and of any process of a run without."""

_RUN = """
import resource
import sys
from pathlib import Path
import psutil
from pipeline.sources import open_source
from pipeline.engine import Pipeline
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector

source = open_source("scene:?size=1280x720&fps=0")
frames, at = int(sys.argv[1]), []
with Pipeline(source, Detector(), Classifier(), max_frames=frames) as results:
    for i, _ in enumerate(results):
        if i % (frames // 10) == frames // 10 - 1:
            at.append(psutil.Process().memory_info().rss / 2**20)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
print(*at)
"""


def memory_figures(frames: int) -> Iterator[Figure]:
    """Resident memory of separate processes: while kernels are compiled, and in a long run."""
    with tempfile.TemporaryDirectory() as cache:
        peak, childs_peak, _ = _run(20, cache)
        yield Figure(
            "resident memory, peak of the run that compiles",
            max(peak, childs_peak),
            "MB",
            COMPILING_MB,
            at_least=False,
            detail=f"{peak:.0f} MB, its child process {childs_peak:.0f} MB",
        )
        peak, _, at = _run(frames, cache)
    yield Figure("resident memory, peak of a warm run", peak, "MB", WARM_MB, at_least=False)
    yield Figure("resident memory, largest of ten", max(at), "MB", WARM_MB, at_least=False)
    yield Figure(
        f"resident memory, growth from frame {frames // 5} to {frames}",
        at[-1] - at[1],
        "MB",
        5.0,
        at_least=False,
        detail=" ".join(f"{value:.0f}" for value in at) + " MB",
    )


def _run(frames: int, cache: str) -> tuple[float, float, list[float]]:
    """The peaks of a run and of its child processes in MB, and its size at ten points."""
    command = [sys.executable, "-c", _RUN, str(frames)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    peak, childs_peak, at = done.stdout.splitlines()
    return float(peak), float(childs_peak), [float(word) for word in at.split()]


def first_result_figures(video: Path) -> Iterator[Figure]:
    """Start of `vision run` to the first line of --jsonl, with a cold and a warm Numba cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold_s, said = _first_result(video, Path(cache))
        warm_s = min(_first_result(video, Path(cache))[0] for _ in range(3))
    yield Figure(
        "first result, kernels not yet compiled",
        cold_s,
        "s",
        12.0,
        at_least=False,
        detail="announces that it compiles" if said else "DOES NOT ANNOUNCE that it compiles",
    )
    yield Figure("first result, warm", warm_s, "s", 2.0, at_least=False)


def _first_result(video: Path, cache: Path) -> tuple[float, bool]:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(video), "--jsonl", "-"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--max-frames", "50"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdout is None or not process.stdout.readline():
            raise SystemExit(f"{' '.join(command)}: gave no result")
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    return seconds, "compil" in errors
