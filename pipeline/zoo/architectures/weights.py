"""Random or given weights for the architectures."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

Float = npt.NDArray[np.float32]

BEFORE_RELU = 2.0**0.5
"""The gain of a layer whose activation discards half of its input."""
LINEAR = 1.0
ADDED = 0.3
"""The gain of a layer that is added to its block's input, so that sums do not grow with depth."""

_BIAS_SPREAD = 0.1


class Weights(Protocol):
    """Called once per layer, in the order of the network; see `RandomWeights`."""

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        """Return a weight of `shape` (outputs, inputs, ...) and a bias (outputs,), float32.

        `gain` is the wanted ratio of the output's spread to the input's.
        """
        ...


class RandomWeights:
    """Normally distributed weights that keep the spread of activations (arXiv 1502.01852).

    An untrained network then takes the time of a trained one, in float and in int8, and no layer
    overflows or vanishes. The same seed, name and shape always give the same weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        spread = gain / np.sqrt(np.prod(shape[1:]))
        weight = rng.standard_normal(shape, np.float32)
        weight *= np.float32(spread)
        bias = rng.standard_normal(shape[0], np.float32) * np.float32(_BIAS_SPREAD)
        return weight, bias


class GivenWeights:
    """Given weights and biases, in the order of the network's layers.

    Raises `ModelError` if a shape differs or there are fewer pairs than layers.
    """

    def __init__(self, pairs: Iterable[tuple[Float, Float]]) -> None:
        self._pairs: Iterator[tuple[Float, Float]] = iter(pairs)

    def __call__(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[Float, Float]:
        try:
            weight, bias = next(self._pairs)
        except StopIteration:
            raise ModelError(
                f"layer {name}: expected weights of {shape}, but there are no more"
            ) from (None)
        if weight.shape != shape or bias.shape != shape[:1]:
            raise ModelError(
                f"layer {name}: expected weights of {shape} and biases of {shape[:1]}, "
                f"but got {weight.shape} and {bias.shape}"
            )
        return weight, bias
