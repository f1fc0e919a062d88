"""Fit of a linear classifier to a few labelled images per class, in closed form.

Ridge regression onto one-hot targets, with equal weight per class. The strength of the ridge and
the scale of the logits are chosen by cross-validation over images: all views of an image are in the
same fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

RIDGES = (1.0, 3.0)
"""Ridge strengths to choose from, relative to the mean squared length of a centred row."""
_GAINS = tuple(2.0**power for power in range(9))
_FOLDS = 5
_SEED = 0


@dataclass(frozen=True)
class Head:
    """A linear classifier: `weight` (classes, features), `bias` (classes,), float32."""

    weight: Float
    bias: Float

    def __call__(self, features: npt.NDArray[np.floating]) -> Float:
        """Return logits (n, classes) of `features` (n, features)."""
        return np.asarray(features.astype(np.float32) @ self.weight.T + self.bias, np.float32)


class Rows(NamedTuple):
    """Features (n, p) of views of images, and the class (n,) and image number (n,) of each.

    The first row of an image is the view it is tested with.
    """

    features: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]


class LabelFit(NamedTuple):
    """A fitted head, with the cross-validated `answers` (m,) and the `truth` (m,) of each image.

    `accuracy` is the percentage of right answers.
    """

    head: Head
    ridge: float
    folds: int
    answers: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return 100.0 * float(np.mean(self.answers == self.truth))


def fit_labels(rows: Rows) -> LabelFit:
    """Return the head with the highest cross-validated likelihood.

    Raises `InputError` if there are fewer than two classes, or fewer than two images of a class:
    then nothing is left to test it with.
    """
    tested, fold = _folds(rows)
    truth = rows.classes[tested]
    held_out = {ridge: np.empty((len(tested), truth.max() + 1)) for ridge in RIDGES}
    for number in range(fold.max() + 1):
        is_test = fold[tested] == number
        features = rows.features[tested[is_test]]
        chosen = fold != number
        for ridge, (weight, bias) in _solve(rows.features[chosen], rows.classes[chosen]).items():
            held_out[ridge][is_test] = features @ weight + bias
    losses = {
        (_log_loss(gain * outputs, truth), ridge, gain)
        for ridge, outputs in held_out.items()
        for gain in _GAINS
    }
    _, ridge, gain = min(losses)
    weight, bias = _solve(rows.features, rows.classes)[ridge]
    head = Head((gain * weight.T).astype(np.float32), (gain * bias).astype(np.float32))
    return LabelFit(head, ridge, int(fold.max()) + 1, held_out[ridge].argmax(axis=1), truth)


def _folds(rows: Rows) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Return the test row of each image and the fold of every row; classes are spread evenly."""
    images, tested = np.unique(rows.images, return_index=True)
    classes = rows.classes[tested]
    counts = np.bincount(classes)
    if len(counts) < 2:
        raise InputError(f"head: expected two or more classes, but got {len(counts)}")
    if counts.min() < 2:
        raise InputError(
            f"head: expected two or more images of each class, but class {counts.argmin()} "
            f"has {counts.min()}"
        )
    fold = np.empty(len(images), np.int64)
    rng = np.random.default_rng(_SEED)
    for class_id in range(len(counts)):
        members = rng.permutation(np.flatnonzero(classes == class_id))
        fold[members] = np.arange(len(members)) % min(_FOLDS, int(counts.min()))
    return tested, fold[np.searchsorted(images, rows.images)]


def _solve(
    features: npt.NDArray[np.float32], classes: npt.NDArray[np.int64]
) -> dict[float, tuple[Double, Double]]:
    """Return weight (p, k) and bias (k,) for each ridge, from one decomposition."""
    counts = np.bincount(classes)
    share = 1.0 / (len(counts) * counts[classes])
    targets = np.eye(len(counts))[classes]
    mean, target_mean = share @ features, share @ targets
    root = np.sqrt(share)[:, None]
    rows = root * (features - mean)
    wanted = rows.T @ (root * (targets - target_mean))
    is_wide = len(rows) < rows.shape[1]
    values, axes = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    kept = values > values[-1] * 1e-10
    values, axes = values[kept], axes[:, kept]
    if is_wide:
        axes = rows.T @ axes / np.sqrt(values)
    along = axes.T @ wanted
    power = values.sum() / len(features)
    solved = {}
    for ridge in RIDGES:
        weight = axes @ (along / (values + ridge * power)[:, None])
        solved[ridge] = weight, target_mean - mean @ weight
    return solved


def _log_loss(logits: Double, truth: npt.NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, truth[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - right))
