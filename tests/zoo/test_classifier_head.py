"""The fit of a new head: compared with an independent solution, and calibrated."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError, ModelError
from pipeline.inference.classifier import Classifier
from pipeline.inference.registry import find_model
from pipeline.zoo import classifier_head
from pipeline.zoo.classifier_head import Rows, features_of, fit_labels, fit_new_head, views
from pipeline.zoo.onnx_file import load_model


def rows_of(images, classes, width=6, spread=0.5, views_of_each=2, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, 1, (classes, width))
    labels = np.arange(images) % classes
    features = centres[labels] + rng.normal(0, spread, (images, width))
    repeated = np.repeat(features, views_of_each, axis=0)
    repeated[1::views_of_each] += 0.01
    return Rows(
        repeated.astype(np.float32),
        np.repeat(labels, views_of_each),
        np.repeat(np.arange(images), views_of_each),
    )


@pytest.mark.parametrize("width", [6, 300], ids=["more rows than features", "fewer"])
def test_fit_is_ridge_regression_onto_one_hot_targets(width, monkeypatch):
    """Compared with the normal equations with a column of ones and equal class weights."""
    monkeypatch.setattr(classifier_head, "RIDGES", (2.0,))
    rows = rows_of(40, 3, width)
    keep = np.ones(80, bool)
    keep[:6] = False  # classes of different size
    rows = Rows(*(array[keep] for array in rows))
    fit = fit_labels(rows)
    x, k = rows.features.astype(np.float64), 3
    weights = 1 / (k * np.bincount(rows.classes)[rows.classes])
    mean = weights @ x
    centred = x - mean
    power = (weights[:, None] * centred**2).sum() / len(x)
    gram = centred.T @ (weights[:, None] * centred) + 2.0 * power * np.eye(width)
    targets = np.eye(k)[rows.classes]
    exact = np.linalg.solve(gram, centred.T @ (weights[:, None] * (targets - weights @ targets)))
    gain = np.linalg.norm(fit.head.weight) / np.linalg.norm(exact)
    np.testing.assert_allclose(fit.head.weight.T, gain * exact, rtol=1e-3, atol=1e-5 * gain)
    bias = gain * (weights @ targets - mean @ exact)
    np.testing.assert_allclose(fit.head.bias, bias, rtol=1e-3, atol=1e-4 * gain)


def test_cross_validation_predicts_the_accuracy_on_new_images():
    fit = fit_labels(rows_of(60, 4, spread=1.0))
    new = rows_of(4000, 4, spread=1.0, seed=1)
    accuracy = 100 * np.mean(fit.head(new.features).argmax(axis=1) == new.classes)
    assert fit.accuracy == pytest.approx(accuracy, abs=10)
    assert accuracy < 97  # so that the prediction is not trivial


def test_cross_validation_of_noise_is_at_chance():
    """With random labels, views of one image in two folds would raise the accuracy."""
    rng = np.random.default_rng(2)
    features = rng.normal(0, 1, (80, 200))
    classes = rng.permutation(np.arange(80) % 2)
    rows = Rows(
        np.repeat(features, 4, axis=0).astype(np.float32),
        np.repeat(classes, 4),
        np.repeat(np.arange(80), 4),
    )
    assert fit_labels(rows).accuracy < 70


def test_scores_are_calibrated():
    fit = fit_labels(rows_of(60, 4, spread=1.0))
    logits = fit.head(rows_of(4000, 4, spread=1.0, seed=1).features).astype(np.float64)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = 100 * (scores.max(axis=1) / scores.sum(axis=1)).mean()
    assert confidence == pytest.approx(fit.accuracy, abs=12)


@pytest.mark.parametrize(
    ("classes", "message"),
    [([0, 0, 0], "two or more classes, but got 1"), ([0, 0, 1], "class 1 has 1")],
    ids=["one class", "one image"],
)
def test_too_few_images_are_an_error(classes, message):
    rows = Rows(np.eye(3, dtype=np.float32), np.array(classes), np.arange(3))
    with pytest.raises(InputError, match=message):
        fit_labels(rows)


@pytest.fixture
def folders(tmp_path):
    """Images of two classes: horizontal and vertical stripes with noise."""
    rng = np.random.default_rng(0)
    for number in range(6):
        stripes = np.tile(np.array([40, 200], np.uint8).repeat(8), 6)[None, :].repeat(96, 0)
        for name, image in (("along", stripes), ("across", stripes.T)):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            noisy = image + rng.integers(0, 40, image.shape, dtype=np.uint8)
            target = tmp_path / "photos" / name / f"{number}.png"
            cv2.imwrite(str(target), cv2.cvtColor(noisy, cv2.COLOR_GRAY2BGR))
    return tmp_path / "photos"


def silent(job, done, total):
    assert 0 <= done <= total


def test_new_head_on_the_shipped_backbone_separates_new_classes(folders, tmp_path):
    model, spec = load_model(find_model("mobilenetv2-int8"))
    output = tmp_path / "stripes.onnx"
    fitted = fit_new_head(model, spec, folders, output, silent)
    assert fitted.fit.accuracy == 100
    assert fitted.images == {"across": 6, "along": 6}
    classify = Classifier(output, top=2)
    assert classify.labels == ("across", "along")
    for class_id, name in enumerate(classify.labels):
        image = cv2.imread(str(folders / name / "0.png"))
        found = classify(image, np.array([[0, 0, 96, 96]], np.float32))
        assert found.ids[0, 0] == class_id
        assert found.scores[0, 0] > 0.9

    # The new head can be replaced again.
    again = fit_new_head(*load_model(output), folders, tmp_path / "again.onnx", silent)
    assert again.fit.accuracy == 100
    assert Classifier(tmp_path / "again.onnx", top=1).labels == classify.labels


def test_model_without_final_linear_layer_is_refused():
    model, spec = load_model(find_model("mobilenetv2-int8"))
    (last,) = [node for node in model.graph.node if spec.logits in node.output]
    last.op_type = "Tanh"
    with pytest.raises(ModelError, match=r"ends in a linear layer.*Tanh"):
        features_of(model, spec)


def test_views_are_deterministic_and_distinct():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    first, second = views(image, 32, 32, seed=4), views(image, 32, 32, seed=4)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[1], first[0][:, ::-1])
    assert len({view.tobytes() for view in first}) == len(first)
