"""Memory over a long run, and the time from the start of a process to its first result."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure

LIMIT_MB = 300.0

_RUN = """
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
print(*at)
"""


def memory_figures(frames: int) -> Iterator[Figure]:
    """Resident memory of a separate process, at ten points of a long run."""
    command = [sys.executable, "-c", _RUN, str(frames)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    at = [float(word) for word in output.split()]
    yield Figure("resident memory, largest", max(at), "MB", LIMIT_MB, at_least=False)
    yield Figure(
        f"resident memory, growth from frame {frames // 5} to {frames}",
        at[-1] - at[1],
        "MB",
        5.0,
        at_least=False,
        detail=" ".join(f"{value:.0f}" for value in at) + " MB",
    )


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
