"""Fitting a linear classifier to a backbone's features, from what another network says.

The other network, the teacher, ends in a linear classifier too. So the backbone's features are
mapped linearly onto the teacher's features, and the teacher's own classifier does the rest; both
are matrices and become one. That way a class can be named of which no picture was in the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.zoo.training.linear_classifier import Head

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

RIDGE = 0.5
"""Ridge strength over the mean variance of a feature."""
MAX_GAIN = 5.0
"""By how much a direction's shrinkage may be undone; beyond, it is noise."""

_CHUNK = 4096


@dataclass(frozen=True)
class _Moments:
    """Means and covariances of paired rows x (n, p) and y (n, q)."""

    mean_x: Double
    mean_y: Double
    xx: Double
    xy: Double
    yy: Double


def fit_head(
    features: npt.NDArray[np.floating],
    teacher_features: npt.NDArray[np.floating],
    teacher: Head,
    *,
    ridge: float = RIDGE,
    max_gain: float = MAX_GAIN,
) -> Head:
    """The classifier of `features` (n, p) that follows `teacher` on `teacher_features` (n, q).

    Ridge regression shrinks what it predicts towards the mean, most of all in directions that
    the features say little about, and so the logits of rare classes most. That loses rank among
    the classes, hence the spread is restored twice: of each principal component of the teacher's
    features, and of each class's logit.

    Raises `InputError` where the arrays do not fit or there are fewer than two rows.
    """
    if len(features) != len(teacher_features) or len(features) < 2:
        raise InputError(
            f"fit_head: expected two or more rows in both arrays, but got {len(features)} and "
            f"{len(teacher_features)}"
        )
    moments = _moments(features, teacher_features)
    penalty = ridge * np.trace(moments.xx) / len(moments.xx) * np.eye(len(moments.xx))
    mapping = np.linalg.solve(moments.xx + penalty, moments.xy)
    mapping = _restore_components(mapping, moments, max_gain)
    teacher_weight = teacher.weight.astype(np.float64)
    weight = mapping @ teacher_weight.T
    target = _variances(teacher_weight.T, moments.yy)
    weight *= _gain(target, _variances(weight, moments.xx), max_gain)
    mean_logits = teacher_weight @ moments.mean_y + teacher.bias
    bias = mean_logits - moments.mean_x @ weight
    return Head(
        np.ascontiguousarray(weight.T, dtype=np.float32), np.ascontiguousarray(bias, np.float32)
    )


def lean_to_labels(
    teacher_features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    teacher: Head,
    step: float,
) -> Float:
    """Teacher features (n, q) moved towards naming `labels` (n,); -1 leaves a row as it is.

    One gradient step of the log-likelihood of the label under the teacher's classifier: where the
    teacher is right and sure, next to nothing changes.
    """
    moved = teacher_features.astype(np.float32, copy=True)
    known = np.flatnonzero(labels >= 0)
    logits = teacher(moved[known])
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    moved[known] += step * (teacher.weight[labels[known]] - probabilities @ teacher.weight)
    return moved


def _moments(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> _Moments:
    """Summed in chunks, so that half-precision rows never stand in memory as floats at once."""
    width = x.shape[1] + y.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        joined = np.concatenate([x[rows], y[rows]], axis=1, dtype=np.float32)
        total += joined.sum(axis=0, dtype=np.float64)
        products += joined.T @ joined
    mean = total / len(x)
    covariance = products / len(x) - np.outer(mean, mean)
    split = x.shape[1]
    return _Moments(
        mean[:split],
        mean[split:],
        covariance[:split, :split],
        covariance[:split, split:],
        covariance[split:, split:],
    )


def _restore_components(mapping: Double, moments: _Moments, max_gain: float) -> Double:
    """Give each principal component of the predicted features its variance back."""
    variances, axes = np.linalg.eigh(moments.yy)
    along = mapping @ axes
    gain = _gain(np.maximum(variances, 0.0), _variances(along, moments.xx), max_gain)
    return np.asarray((along * gain) @ axes.T, np.float64)


def _variances(columns: Double, covariance: Double) -> Double:
    """The variance of x @ column for each column, x of the given covariance."""
    return np.asarray(np.einsum("ij,ij->j", columns, covariance @ columns), np.float64)


def _gain(target: Double, present: Double, max_gain: float) -> Double:
    """What brings a spread to its target, at most `max_gain`; 0 where there is no spread."""
    floor = np.finfo(np.float64).tiny
    return np.where(
        present > floor, np.minimum(np.sqrt(target / np.maximum(present, floor)), max_gain), 0.0
    )
