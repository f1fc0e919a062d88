"""How long a network takes on this machine, run as the pipeline runs it; measured once, then kept.

What was measured is kept per machine: its processor, ONNX Runtime's version, the threads, and the
code that makes, runs and counts the networks. If one of these changes, everything is measured anew.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnxruntime as ort
import psutil
from platformdirs import user_cache_path

from pipeline.errors import OutputError
from pipeline.inference import session
from pipeline.inference.processor import processor
from pipeline.inference.session import Model, Runtime, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.zoo import architectures
from pipeline.zoo.graphs import cost, rewrites, stem
from pipeline.zoo.onnx_file import save_model, write_atomically
from pipeline.zoo.quantization import qdq

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

_LOOK_S = 0.3
_BUSY_PERCENT = 20.0
_CHUNKS = 3
_CHUNK_S = 0.12
_FEWEST_RUNS = 3
"""In a chunk. The least median of the chunks counts: it tells the network's time from that of
whatever else was running for a moment."""


class Measurement(msgspec.Struct, frozen=True):
    """One network here: milliseconds a call with one picture, what it costs, bytes of its file.

    `is_rough` where other programs took the processor's time meanwhile.
    """

    latency_ms: float
    parameters: int
    multiply_adds: int
    file_bytes: int
    is_rough: bool = False


class Machine(msgspec.Struct, frozen=True):
    """What measurements hold for."""

    processor: str
    onnxruntime: str
    threads: int
    code: str


class _Contents(msgspec.Struct):
    machine: Machine
    measurements: dict[str, Measurement]


def this_machine(threads: int) -> Machine:
    """The one that this runs on, used with so many threads."""
    return Machine(processor().name, ort.__version__, threads, _code_digest())


class LatencyCache:
    """Measurements of one machine by name, in a file of the user's cache.

    The file is replaced as a whole after every measurement, so an interrupted run loses none.
    """

    def __init__(self, machine: Machine, folder: Path | None = None) -> None:
        digest = hashlib.sha256(msgspec.json.encode(machine)).hexdigest()[:16]
        self.path = (folder or user_cache_path("vision") / "latency") / f"{digest}.json"
        self._contents = _Contents(machine, {})
        self._has_warned = False

    def load(self) -> None:
        """Read what is kept; a damaged file counts as none."""
        try:
            contents = msgspec.json.decode(self.path.read_bytes(), type=_Contents)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            logger.warning("%s: cannot be used, measuring anew: %s", self.path, error)
            return
        if contents.machine == self._contents.machine:
            self._contents = contents

    def get(self, name: str) -> Measurement | None:
        """What is known of a network."""
        return self._contents.measurements.get(name)

    def put(self, name: str, measurement: Measurement) -> None:
        """Keep a measurement; where the file cannot be written, for this run only."""
        self._contents.measurements[name] = measurement
        try:
            write_atomically(self.path, msgspec.json.encode(self._contents))
        except OutputError as error:
            if not self._has_warned:
                logger.warning("%s; it will be measured again next time", error)
            self._has_warned = True


def measure(model: onnx.ModelProto, spec: ModelSpec, threads: int) -> Measurement:
    """Time a network on a random picture, and count what it costs.

    It goes through a file, which is opened exactly as `vision run` does. Raises `OutputError` where
    the folder for temporary files is full or missing.
    """
    counted = cost.count_cost(model)
    opened, size = _open_through_file(model, spec, threads)
    entry = spec.input
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (1, entry.height, entry.width, 3), np.uint8)
    latency_s = time_calls(lambda: opened.run(picture))
    return Measurement(1e3 * latency_s, counted.parameters, counted.multiply_adds or 0, size)


def _open_through_file(model: onnx.ModelProto, spec: ModelSpec, threads: int) -> tuple[Model, int]:
    """The opened network and the bytes of its file, which is gone again by then."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="vision-")
    except OSError as error:
        raise OutputError(f"temporary folder: cannot be made (TMPDIR says where): {error}") from (
            error
        )
    with folder as name:
        path = Path(name) / "network.onnx"
        save_model(model, spec, path)
        return open_model(path, runtime=Runtime(threads=threads)), path.stat().st_size


def warn_if_busy() -> bool:
    """Say so where other programs take the time that is about to be measured."""
    busy = psutil.cpu_percent(interval=_LOOK_S)
    if busy > _BUSY_PERCENT:
        logger.warning(
            "other programs use %.0f %% of the processor: times will be too long; "
            "measure again without them (--fresh)", busy
        )  # fmt: skip
    return busy > _BUSY_PERCENT


def time_calls(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes, after a first one that does not count."""
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
    """A short name for the code that makes, runs and counts the networks."""
    digest = hashlib.sha256()
    folder = Path(architectures.__file__).parent
    modules = [Path(str(module.__file__)) for module in (session, cost, stem, qdq, rewrites)]
    for path in (Path(__file__), *modules, *sorted(folder.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
