"""Calibration: histograms of activations over images, and the range to quantise them over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.zoo import Report, no_report
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs

Batch = npt.NDArray[np.uint8]
Method = Literal["minmax", "entropy", "percentile", "mse"]

_BINS = 2048
_CANDIDATES = 64
_LEVELS = 255


@dataclass(frozen=True)
class Range:
    """The interval that 256 levels are spread over; zero is always one of the levels."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """The distance between two levels, exact in float32."""
        return float(np.float32(max(self.high - self.low, 1e-12) / _LEVELS))

    @property
    def zero_point(self) -> int:
        """The level of zero, 0 to 255."""
        return int(np.clip(np.rint(-self.low / self.scale), 0, _LEVELS))


@dataclass
class Histogram:
    """Counts of a tensor's values in equal bins of [low, high]."""

    low: float
    high: float
    counts: npt.NDArray[np.float64]

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts), dtype=np.float64) + 0.5)


def collect(
    model: ModelProto, batches: Sequence[Batch], tensors: Iterable[str], report: Report = no_report
) -> dict[str, Histogram]:
    """Return histograms of the named float tensors of `model` over `batches` of its input.

    Every batch is run twice, for the limits and for the counts. Raises `InputError` if there is
    no batch.
    """
    if not batches:
        raise InputError("calibration: expected at least one image, but got none")
    names = list(tensors)
    session = open_with_outputs(model, names)
    entry = session.get_inputs()[0].name
    bounds: dict[str, tuple[float, float]] = dict.fromkeys(names, (0.0, 0.0))
    for number, batch in enumerate(batches):
        report("calibrating", number, 2 * len(batches))
        for name, values in zip(names, session.run(names, {entry: batch}), strict=True):
            low, high = bounds[name]
            bounds[name] = (min(low, float(values.min())), max(high, float(values.max())))
    found = {name: Histogram(*bounds[name], np.zeros(_BINS)) for name in names}
    for number, batch in enumerate(batches, start=len(batches)):
        for name, values in zip(names, session.run(names, {entry: batch}), strict=True):
            _count(found[name], values)
        report("calibrating", number + 1, 2 * len(batches))
    return found


def choose_range(
    histogram: Histogram,
    method: Method = "mse",
    *,
    percentile: float = 99.999,
    negative_weight: float = 1.0,
) -> Range:
    """Return the range to quantise a tensor over.

    `minmax` keeps every value, `percentile` all but that share at either end, `entropy` minimises
    the Kullback-Leibler divergence of the counts before and after, `mse` the mean squared error of
    rounding and clipping. With `mse`, errors of negative values are weighted by `negative_weight`,
    for tensors whose negative values are scaled down afterwards.
    """
    if method == "minmax" or histogram.high == histogram.low:
        return Range(histogram.low, histogram.high)
    if method == "percentile":
        return _percentile_range(histogram, percentile)
    if method == "entropy":
        return _least_divergence_range(histogram)
    return _least_error_range(histogram, negative_weight)


def _count(histogram: Histogram, values: npt.NDArray[np.float32]) -> None:
    low, high = histogram.low, histogram.high
    if high > low:
        index = (values.ravel() - np.float32(low)) * np.float32(_BINS / (high - low))
        bins = np.clip(index.astype(np.int32), 0, _BINS - 1)
        histogram.counts += np.bincount(bins, minlength=_BINS)


def _percentile_range(histogram: Histogram, percentile: float) -> Range:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = 1.0 - percentile / 100.0
    width = (histogram.high - histogram.low) / _BINS
    low = histogram.low + width * int(np.searchsorted(share, tail))
    high = histogram.low + width * (int(np.searchsorted(share, 1.0 - tail)) + 1)
    return Range(min(0.0, low), max(0.0, high))


def _least_error_range(histogram: Histogram, negative_weight: float) -> Range:
    """Search a grid of both ends; rounding to steps of d costs d^2 / 12, clipping its excess."""
    centres = histogram.centres
    weights = histogram.counts * np.where(centres < 0, negative_weight, 1.0)
    fractions = np.linspace(1.0 / _CANDIDATES, 1.0, _CANDIDATES)
    lows = np.concatenate((histogram.low * fractions, [0.0]))
    highs = np.concatenate((histogram.high * fractions, [0.0]))
    below = np.array([(weights * np.maximum(low - centres, 0) ** 2).sum() for low in lows])
    above = np.array([(weights * np.maximum(centres - high, 0) ** 2).sum() for high in highs])
    steps = (highs[None, :] - lows[:, None]) / _LEVELS
    error = below[:, None] + above[None, :] + weights.sum() * steps**2 / 12
    error[steps <= 0] = np.inf
    low_index, high_index = np.unravel_index(int(error.argmin()), error.shape)
    return Range(float(lows[low_index]), float(highs[high_index]))


def _least_divergence_range(histogram: Histogram) -> Range:
    """Shrink both ends alike; counts outside are added to the outermost bins inside.

    Non-empty bins that share a level count as equally frequent. Zero is left out: it always has a
    level of its own, and after a ReLU it dominates.
    """
    counts, bins = histogram.counts.copy(), np.arange(_BINS)
    width = (histogram.high - histogram.low) / _BINS
    zero = int(np.clip(-histogram.low / width, 0, _BINS - 1))
    counts[zero] = 0.0
    best, found = np.inf, Range(histogram.low, histogram.high)
    for share in np.linspace(1.0 / _CANDIDATES, 1.0, _CANDIDATES):
        first, last = round(zero * (1 - share)), round(zero + (_BINS - zero) * share) - 1
        if last - first < _LEVELS:
            continue  # fewer bins than levels: nothing is rounded
        kept = np.zeros(last + 1 - first)
        np.add.at(kept, np.clip(bins, first, last) - first, counts)
        level = np.arange(len(kept)) * _LEVELS // len(kept)
        inside = counts[first : last + 1]
        filled = np.bincount(level, inside > 0, minlength=_LEVELS)
        mean = np.bincount(level, inside, minlength=_LEVELS) / np.maximum(filled, 1)
        divergence = _divergence(kept, np.where(inside > 0, mean[level], 0.0))
        if divergence < best and inside.any():
            low, high = histogram.low + width * first, histogram.low + width * (last + 1)
            best, found = divergence, Range(min(0.0, low), max(0.0, high))
    return found


def _divergence(expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence of two unscaled counts, in nats."""
    p = expected[expected > 0] / expected.sum()
    q = np.maximum(found[expected > 0] / max(found.sum(), 1e-300), 1e-9)
    return float((p * np.log(p / q)).sum())
