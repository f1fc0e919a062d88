"""What detector and classifier have in common: a step that runs a model."""

from __future__ import annotations

import abc
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.errors import RunError
from pipeline.inference.manifest import read_manifest
from pipeline.inference.session import Model, Runtime, open_model
from pipeline.inference.spec import ModelSpec
from pipeline.step import Step
from pipeline.types import Frame, Image, Result


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
