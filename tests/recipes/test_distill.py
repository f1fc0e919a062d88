"""The linear head fitted to a teacher: least squares, statistics per class, precision."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.zoo.classifier_head import Head
from recipes.distill import fit_head, lean_to_labels

CLASSES, WIDTH, TEACHER_WIDTH = 12, 20, 16


@pytest.fixture
def world():
    """Features and teacher features that are linear functions of the same values."""
    rng = np.random.default_rng(0)
    things = rng.normal(0, 1, (4000, 14)) * np.linspace(3, 0.3, 14)
    features = things @ rng.normal(0, 1, (14, WIDTH)) + rng.normal(0, 0.3, (4000, WIDTH)) + 1.0
    taught = things @ rng.normal(0, 1, (14, TEACHER_WIDTH)) + 2.0
    weight = rng.normal(0, 1, (CLASSES, TEACHER_WIDTH)).astype(np.float32)
    teacher = Head(weight, rng.normal(0, 1, CLASSES).astype(np.float32))
    return features.astype(np.float32), taught.astype(np.float32), teacher


def test_fit_without_ridge_and_gain_is_least_squares(world):
    features, taught, teacher = world
    exact = taught @ teacher.weight.T + teacher.bias
    design = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, exact.astype(np.float64), rcond=None)
    head = fit_head(features, taught, teacher, ridge=0.0, max_gain=1.0)
    correlation = [
        np.corrcoef(column, other)[0, 1]
        for column, other in zip((design @ solution).T, head(features).T, strict=True)
    ]
    assert min(correlation) > 0.9999


def test_mean_and_variance_of_each_class_are_restored(world):
    features, taught, teacher = world
    exact = teacher(taught)
    shrunk = fit_head(features, taught, teacher, ridge=5.0, max_gain=1.0)(features)
    restored = fit_head(features, taught, teacher, ridge=5.0, max_gain=50.0)(features)
    assert (shrunk.std(axis=0) < 0.8 * exact.std(axis=0)).any()
    np.testing.assert_allclose(restored.std(axis=0), exact.std(axis=0), rtol=1e-3)
    np.testing.assert_allclose(restored.mean(axis=0), exact.mean(axis=0), atol=1e-2)


def test_classes_absent_from_the_fit_are_recognised(world):
    features, taught, teacher = world
    best = teacher(taught).argmax(axis=1)
    seen = best < CLASSES // 2
    head = fit_head(features[seen], taught[seen], teacher, ridge=0.01)
    assert np.mean(head(features[~seen]).argmax(axis=1) == best[~seen]) > 0.8


def test_half_precision_rows_give_the_same_head_within_their_precision(world):
    features, taught, teacher = world
    wide = fit_head(features, taught, teacher)
    narrow = fit_head(features.astype(np.float16), taught.astype(np.float16), teacher)
    np.testing.assert_allclose(narrow(features), wide(features), atol=0.05)


def test_fit_is_deterministic(world):
    first, second = fit_head(*world), fit_head(*world)
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()


def test_leaning_raises_the_label_and_keeps_unlabelled_rows(world):
    _, taught, teacher = world
    labels = np.full(len(taught), -1)
    labels[:100] = 3
    moved = lean_to_labels(taught, labels, teacher, 0.1)
    np.testing.assert_array_equal(moved[100:], taught[100:])
    before, after = (
        -np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits[:, 3] - logits.max(1)
        for logits in (teacher(taught[:100]).astype(float), teacher(moved[:100]).astype(float))
    )
    assert (after >= before).all()
    assert (after > before).sum() > 50


@pytest.mark.parametrize("rows", [(5, 4), (1, 1), (0, 0)], ids=["unequal", "one", "none"])
def test_rows_that_cannot_be_fitted_are_an_error(world, rows):
    features, taught, teacher = world
    with pytest.raises(InputError, match="expected two or more rows in both arrays"):
        fit_head(features[: rows[0]], taught[: rows[1]], teacher)
