"""Fit of a linear classifier on a backbone's features to the answers of a teacher network.

The teacher also ends in a linear classifier. The backbone's features are mapped linearly onto the
teacher's features, and the mapping is multiplied by the teacher's classifier. The result also knows
classes without any image in the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.zoo.classifier_head import Head

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

RIDGE = 0.5
"""Ridge strength relative to the mean variance of a feature."""
MAX_GAIN = 5.0
"""Largest factor that undoes the shrinkage of a direction; larger ones amplify noise."""

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
    """Return the classifier of `features` (n, p) like `teacher` on `teacher_features` (n, q).

    Ridge regression shrinks predictions towards the mean, mostly in directions that the features
    hardly determine, and so mostly the logits of rare classes. This lowers their rank. Hence the
    variance is restored twice: of each principal component of the teacher's features, and of each
    class's logit.

    Raises `InputError` if the arrays do not match or have fewer than two rows.
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
    """Return teacher features (n, q) moved towards `labels` (n,); -1 leaves a row unchanged.

    This is one gradient step of the log-likelihood of the label under the teacher's classifier: if
    the teacher is right and certain, almost nothing changes.
    """
    moved = teacher_features.astype(np.float32, copy=True)
    known = np.flatnonzero(labels >= 0)
    logits = teacher(moved[known])
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    moved[known] += step * (teacher.weight[labels[known]] - probabilities @ teacher.weight)
    return moved


def _moments(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> _Moments:
    """Sum in chunks, so that not all half-precision rows are converted to float at once."""
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
    """Restore the variance of each principal component of the predicted features."""
    variances, axes = np.linalg.eigh(moments.yy)
    along = mapping @ axes
    gain = _gain(np.maximum(variances, 0.0), _variances(along, moments.xx), max_gain)
    return np.asarray((along * gain) @ axes.T, np.float64)


def _variances(columns: Double, covariance: Double) -> Double:
    """Return the variance of x @ column for each column, for x of the given covariance."""
    return np.asarray(np.einsum("ij,ij->j", columns, covariance @ columns), np.float64)


def _gain(target: Double, present: Double, max_gain: float) -> Double:
    """Return factors that scale variances to `target`, at most `max_gain`; 0 without variance."""
    floor = np.finfo(np.float64).tiny
    return np.where(
        present > floor, np.minimum(np.sqrt(target / np.maximum(present, floor)), max_gain), 0.0
    )
