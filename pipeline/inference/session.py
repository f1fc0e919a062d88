"""Opens model files: the ONNX Runtime session, the spec inside the file, and steps that run it."""

from __future__ import annotations

import abc
import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from pipeline.errors import ConfigError, ModelError, RunError, one_line
from pipeline.inference.external import read_model
from pipeline.inference.interface import fit_interface
from pipeline.inference.manifest import read_manifest
from pipeline.inference.preprocess import Convert, converter
from pipeline.inference.processor import (
    adds_int8_in_16_bits,
    available_threads,
    processor,
)
from pipeline.inference.registry import find_model, find_spec
from pipeline.inference.spec import METADATA_KEY, ModelSpec, decode_spec
from pipeline.settings import checked
from pipeline.settings.setting import Threads
from pipeline.step import Step
from pipeline.text.native import utf8
from pipeline.types import Frame, Image, Result

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Runtime:
    """How a model runs.

    - `provider`: the execution provider, as ONNX Runtime names it
    - `threads`: cores for one call; None for all that this process may use

    Raises `ConfigError` if `threads` is out of range.
    """

    provider: str = CPU
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            object.__setattr__(self, "threads", checked(self.threads, Threads, "threads"))


# ONNX Runtime's exceptions have no common base class.
ORT_ERRORS = tuple(
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)


@dataclass(frozen=True, slots=True)
class Model:
    """An opened model; `run` may be called from several threads at once.

    `outputs` are the names of those that the spec lists, in its order; `batch` is the number of
    images that the graph takes in one call, None for any.
    """

    path: Path
    spec: ModelSpec
    session: ort.InferenceSession
    runtime: Runtime
    outputs: tuple[str, ...]
    batch: int | None = None
    convert: Convert | None = None
    _running: list[ort.RunOptions] = field(default_factory=list)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled model opens its file again where it is loaded."""
        return functools.partial(open_model, self.path, runtime=self.runtime, spec=self.spec), ()

    @property
    def threads(self) -> int:
        """Cores that one call may use."""
        return self.runtime.threads or available_threads()

    def run(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Run a batch (N, height, width, 3) uint8 BGR; returns one float32 array per output.

        The pixels are converted here for a network that takes another form.

        Raises `RunError` if `cancel` ended the call or the runtime fails.
        """
        feed = pixels if self.convert is None else self.convert(pixels)
        options = ort.RunOptions()
        self._running.append(options)
        try:
            outputs: list[npt.NDArray[np.float32]] = self.session.run(
                self.outputs, {self.spec.input.name: feed}, options
            )
        except ORT_ERRORS as error:
            reason = "was cancelled" if options.terminate else one_line(error)
            raise RunError(f"{self.path.name}: the model's call {reason}") from error
        finally:
            self._running.remove(options)
        return outputs

    def cancel(self) -> None:
        """End the calls in progress, each after the layer that it is in."""
        for options in list(self._running):
            options.terminate = True


def open_model(
    model: str | Path,
    *,
    task: str | None = None,
    runtime: Runtime | None = None,
    spec: ModelSpec | None = None,
) -> Model:
    """Open a model by its registry name or path for `task` ("detect", "classify", None for any).

    Threads that wait for work sleep rather than spin: they share their core with capture, decoding
    and drawing. What the model expects is `spec` if given, else what its metadata says, else what
    the registry says of a file with these contents.

    Raises `ModelError` if the file is missing, damaged, made for another task, other than its spec
    says or without one, if its weights lie outside its folder, or if this ONNX Runtime does not
    have the provider.
    """
    path = find_model(model)
    runtime = runtime or Runtime()
    _check_provider(runtime.provider)
    read_model(path)  # which checks it
    options = _options(runtime.threads or available_threads())
    try:
        session = ort.InferenceSession(
            utf8(path, ModelError), options, providers=[runtime.provider]
        )
    except ORT_ERRORS as error:
        reason = one_line(error)
        raise ModelError(f"{path}: not a usable ONNX model: {reason}") from error
    try:
        spec = spec or _stored_spec(path, session)
        if task is not None and spec.task != task:
            raise ModelError(f"{path}: expected a model that can {task}, but it can {spec.task}")
        spec, batch = fit_interface(str(path), spec, session)
    except UnicodeError as error:  # ONNX Runtime does not check names and metadata
        raise ModelError(f"{path}: not a usable ONNX model: its texts are not UTF-8") from error
    return Model(path, spec, session, runtime, tuple(spec.shapes), batch, converter(spec.input))


class ModelStep(Step):
    """Opens a model for the task `name`, and reopens it for another number of threads.

    Raises `ModelError` as `open_model` does.
    """

    in_order: ClassVar[bool] = False

    def __init__(
        self,
        model: str | Path,
        threads: int | None,
        runtime: Runtime | None,
        manifest: str | Path | ModelSpec | None,
    ) -> None:
        spec = read_manifest(manifest) if isinstance(manifest, (str, Path)) else manifest
        if spec is not None and not isinstance(spec, ModelSpec):
            raise ConfigError(f"manifest: expected a path or a ModelSpec, but got {spec!r}")
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ConfigError(f"runtime: expected a Runtime, but got {runtime!r}")
        runtime = runtime or Runtime()
        if threads is not None:
            runtime = replace(runtime, threads=threads)
        self._model = open_model(model, task=self.name, runtime=runtime, spec=spec)

    @property
    def model(self) -> Model:
        """The opened model file."""
        return self._model

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, by class id."""
        return self._model.spec.labels

    def use_threads(self, threads: int) -> None:
        """Set the number of cores per call. Reopens the model if the number changes."""
        model = self._model
        if threads != model.threads:
            runtime = replace(model.runtime, threads=threads)
            self._model = open_model(model.path, runtime=runtime, spec=model.spec)

    def warm_up(self, threads: int | None = None) -> None:
        """Run once on a blank image, so that nothing is compiled or allocated on the first frame.

        Sets the number of cores per call if `threads` is given.
        """
        if threads is not None:
            self.use_threads(threads)
        spec = self._model.spec.input
        self._try_out(np.zeros((spec.height, spec.width, 3), np.uint8))

    def cancel(self) -> None:
        """End the calls in progress; they raise `RunError`."""
        self._model.cancel()

    @abc.abstractmethod
    def _try_out(self, image: Image) -> None:
        """Run the model once on an image of its input's size."""

    def _image_of(self, frame: Frame | None, result: Result) -> Image:
        """The image to work on. Raises `RunError` if the result came without its frame."""
        if frame is None:
            raise RunError(
                f"frame {result.header.seq} of {result.header.camera}: its image is needed to "
                f"{self.name}, but only its result came; use a source of frames"
            )
        return frame.image


def _stored_spec(path: Path, session: ort.InferenceSession) -> ModelSpec:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return find_spec(path) if text is None else decode_spec(text, str(path))


@functools.cache
def _share_arena() -> None:
    """Let all sessions of the process take their memory from one arena that grows as needed.

    By default each session has its own, which doubles whenever it grows: with several frames in
    flight that held 35 MB more for the two default models.
    """
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    as_requested = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    try:
        ort.create_and_register_allocator(memory, as_requested)
    except ORT_ERRORS as error:
        logger.debug("the process already has an arena: %s", error)


def _options(threads: int) -> ort.SessionOptions:
    _share_arena()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors are raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    if adds_int8_in_16_bits(processor().features):
        # Slower than the instructions that saturate, but gives the measured accuracy.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _check_provider(provider: str) -> None:
    available = ort.get_available_providers()
    if provider not in available:
        raise ModelError(
            f"provider {provider}: not in this ONNX Runtime, which has {', '.join(available)}"
        )
