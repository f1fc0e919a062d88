"""Latency of networks on this machine, run as the pipeline runs them, with a cache on disk.

The cache is valid for one processor, ONNX Runtime version, number of threads, and version of the
code that builds, runs and counts the networks.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import psutil
from platformdirs import user_cache_path

from pipeline.errors import OutputError
from pipeline.files.scratch import scratch_folder
from pipeline.files.writing import write_atomically
from pipeline.inference import session
from pipeline.inference.processor import processor
from pipeline.inference.session import Model, Runtime, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.zoo import architectures, graphs
from pipeline.zoo.graphs.cost import count_cost
from pipeline.zoo.onnx_file import ModelProto, save_model
from pipeline.zoo.quantization import qdq

logger = logging.getLogger(__name__)

_LOOK_S = 0.3
_BUSY_PERCENT = 20.0
_CHUNKS = 3
_CHUNK_S = 0.12
_FEWEST_RUNS = 3
"""Runs per chunk. The least median of the chunks counts, which excludes short-lived other load."""


class Measurement(msgspec.Struct, frozen=True):
    """One network: milliseconds per call with one image, its cost, and the bytes of its file.

    `is_rough` if other programs used the processor during the measurement.
    """

    latency_ms: float
    parameters: int
    multiply_adds: int
    file_bytes: int
    is_rough: bool = False


class Machine(msgspec.Struct, frozen=True):
    """The conditions that measurements are valid for."""

    processor: str
    onnxruntime: str
    threads: int
    code: str


class _Contents(msgspec.Struct):
    machine: Machine
    measurements: dict[str, Measurement]


def this_machine(threads: int) -> Machine:
    """Return the current machine, used with this number of threads."""
    return Machine(processor().name, ort.__version__, threads, _code_digest())


class LatencyCache:
    """Measurements of one machine by name, stored in a file of the user's cache.

    The file is replaced after every measurement, so an interrupted run loses none.
    """

    def __init__(self, machine: Machine, folder: Path | None = None) -> None:
        digest = hashlib.sha256(msgspec.json.encode(machine)).hexdigest()[:16]
        self.path = (folder or user_cache_path("vision") / "latency") / f"{digest}.json"
        self._contents = _Contents(machine, {})
        self._has_warned = False

    def load(self) -> None:
        """Read the file; a damaged one is ignored with a warning."""
        try:
            contents = msgspec.json.decode(self.path.read_bytes(), type=_Contents)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("%s: unusable, measuring again: %s", self.path, error)
            return
        if contents.machine == self._contents.machine:
            self._contents = contents

    def get(self, name: str) -> Measurement | None:
        """Return the measurement of a network, or None."""
        return self._contents.measurements.get(name)

    def put(self, name: str, measurement: Measurement) -> None:
        """Store a measurement; for this run only if the file cannot be written."""
        self._contents.measurements[name] = measurement
        try:
            write_atomically(self.path, msgspec.json.encode(self._contents))
        except OutputError as error:
            if not self._has_warned:
                logger.warning("%s; the next run measures again", error)
            self._has_warned = True


def measure(model: ModelProto, spec: ModelSpec, threads: int) -> Measurement:
    """Time a network on a random image, and count its cost.

    The network is stored in a file that is opened as `vision run` does. Raises `OutputError` if the
    folder for temporary files is full or missing.
    """
    counted = count_cost(model)
    opened, size = _open_through_file(model, spec, threads)
    entry = spec.input
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, entry.height, entry.width, 3), np.uint8)
    latency_s = time_calls(lambda: opened.run(image))
    return Measurement(1e3 * latency_s, counted.parameters, counted.multiply_adds or 0, size)


def _open_through_file(model: ModelProto, spec: ModelSpec, threads: int) -> tuple[Model, int]:
    """Return the opened network and the size of its file, which is deleted again."""
    with scratch_folder() as folder:
        path = folder / "network.onnx"
        save_model(model, spec, path)
        return open_model(path, runtime=Runtime(threads=threads)), path.stat().st_size


def warn_if_busy() -> bool:
    """Warn if other programs use the processor; returns whether they do."""
    busy = psutil.cpu_percent(interval=_LOOK_S)
    if busy > _BUSY_PERCENT:
        logger.warning(
            "other programs use %.0f %% of the processor, so times will be too long; close them "
            "and measure again with --fresh", busy
        )  # fmt: skip
    return busy > _BUSY_PERCENT


def time_calls(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds per call, after a warm-up call."""
    call()
    return min(_median(call, clock) for _ in range(_CHUNKS))


def _median(call: Callable[[], object], clock: Callable[[], float]) -> float:
    seconds: list[float] = []
    end = clock() + _CHUNK_S
    while len(seconds) < _FEWEST_RUNS or clock() < end:
        before = clock()
        call()
        seconds.append(clock() - before)
    return float(np.median(seconds))


def _code_digest() -> str:
    """Return a short hash of the code that builds, runs and counts the networks."""
    digest = hashlib.sha256()
    folders = [Path(str(package.__file__)).parent for package in (architectures, graphs)]
    modules = [Path(str(module.__file__)) for module in (session, qdq)]
    code = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    for path in (Path(__file__), *modules, *code):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
