"""Checks that a graph has the input and the outputs that its spec promises."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pipeline.errors import ModelError
from pipeline.inference.spec import InputSpec, ModelSpec

_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
_ANY = None
_ROUNDING = 1e-3

logger = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """A spec with all names filled in, and how many images one call takes (None for any)."""

    spec: ModelSpec
    batch: int | None


def fit_interface(subject: str, spec: ModelSpec, session: ort.InferenceSession) -> Fitted:
    """Check the spec against the graph; an unnamed input or output is the graph's only one.

    Raises `ModelError` with what was expected and what the graph has. If the graph leaves the
    size of an output open, it is run once to find out.
    """
    spec = _with_names(subject, spec, session)
    batch = _check_input(subject, spec.input, session.get_inputs())
    outputs = {value.name: value for value in session.get_outputs()}
    for name, shape in spec.shapes.items():
        output = outputs.get(name)
        expected = (
            f"{subject}: expected output {name} tensor(float) {_shown(shape)} for "
            f"{len(spec.labels)} labels"
        )
        if output is None or output.type != "tensor(float)" or not _fits(output.shape, shape):
            raise ModelError(f"{expected}, but the graph has {_listed(outputs.values())}")
        if len(output.shape) < 2 or not isinstance(output.shape[1], int):
            given = _try_out(spec.input, session, name)
            if not _fits(given.shape, shape):
                raise ModelError(f"{expected}, but it gives {_shown(given.shape)}")
    if spec.input.dtype == "float32":  # made by others
        _check_values(subject, spec, session)
    return Fitted(spec, batch)


def _check_values(subject: str, spec: ModelSpec, session: ort.InferenceSession) -> None:
    """Run the graph on a blank image, and refuse or warn of values that no answer follows from."""
    values = {name: _try_out(spec.input, session, name) for name in spec.shapes}
    for name, array in values.items():
        if not np.isfinite(array).all():
            raise ModelError(
                f"{subject}: output {name} is not finite (NaN or infinity) for a blank image; "
                f"the model is damaged, or its numbers exceed their type; export it again"
            )
    if spec.head is not None and (problem := spec.head.problem(list(values.values()))):
        raise ModelError(f"{subject}: {problem}")
    if spec.logits:
        _warn_of_probabilities(subject, values[spec.logits])


def _try_out(entry: InputSpec, session: ort.InferenceSession, output: str) -> npt.NDArray[Any]:
    """The values of an output for one blank image."""
    shape = [1 if size is _ANY else size for size in input_shape(entry)]
    (values,) = session.run([output], {entry.name: np.zeros(shape, entry.dtype)})
    return np.asarray(values)


def _warn_of_probabilities(subject: str, answers: npt.NDArray[Any]) -> None:
    """Warn if a classifier's own softmax would be followed by another one."""
    if answers.size > 1 and answers.min() >= 0 and abs(float(answers.sum()) - 1) < _ROUNDING:
        _warn_once(
            f"{subject}: its outputs add up to 1, as after a softmax, but logits are expected: "
            "its scores will be too similar; export it without the softmax, or remove it with "
            "'vision quantize'"
        )


@functools.lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def input_shape(entry: InputSpec) -> list[int | None]:
    """The shape of a batch of any size."""
    if entry.layout == "NCHW":
        return [_ANY, 3, entry.height, entry.width]
    return [_ANY, entry.height, entry.width, 3]


def _with_names(subject: str, spec: ModelSpec, session: ort.InferenceSession) -> ModelSpec:
    if not spec.input.name:
        name = _only(subject, "input", session.get_inputs())
        spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, name=name))
    if spec.logits == "":
        name = _only(subject, "output", session.get_outputs())
        spec = msgspec.structs.replace(spec, logits=name)
    return spec


def _only(subject: str, what: str, values: Sequence[ort.NodeArg]) -> str:
    if len(values) != 1:
        raise ModelError(
            f"{subject}: which {what} to use must be named, since the graph has {_listed(values)}"
        )
    return str(values[0].name)


def _check_input(subject: str, entry: InputSpec, values: Sequence[ort.NodeArg]) -> int | None:
    given = {value.name: value for value in values}.get(entry.name)
    shape = input_shape(entry)
    if given is None or given.type != _TYPES[entry.dtype] or not _fits(given.shape, shape):
        raise ModelError(
            f"{subject}: expected input {entry.name} {_TYPES[entry.dtype]} {_shown(shape)}, "
            f"but the graph has {_listed(values)}"
        )
    if len(values) > 1:
        raise ModelError(
            f"{subject}: expected one input, {entry.name}, but the graph has {_listed(values)}"
        )
    batch = given.shape[0] if given.shape else None  # an input without a shape takes any
    if not isinstance(batch, int):
        return None
    if batch != 1:
        raise ModelError(
            f"{subject}: expected an input that takes one image or any number of them, but "
            f"{entry.name} takes {batch} at once; export the model with a batch of 1"
        )
    return batch


def _fits(found: Sequence[int | str | None], expected: Sequence[int | None]) -> bool:
    """Whether two shapes have the same rank, if any, and no two known sizes that differ."""
    if not found:
        return True
    return len(found) == len(expected) and all(
        have == want or want is _ANY or not isinstance(have, int)
        for have, want in zip(found, expected, strict=True)
    )


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('N' if size is _ANY else str(size) for size in shape)}]"


def _listed(values: object) -> str:
    return ", ".join(f"{v.name} {v.type} {v.shape}" for v in values)  # type: ignore[attr-defined]
