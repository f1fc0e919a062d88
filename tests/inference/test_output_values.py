"""Outputs that no answer follows from are refused: after a sigmoid, or not finite."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pipeline.errors import ModelError, RunError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector

from .foreign import ANCHORS, DETECTOR, MANIFEST, classifier_graph, detector_graph


def test_scores_that_have_passed_a_sigmoid_are_refused(files):
    model = detector_graph()
    model.graph.node[0].output[0] = "raw"
    model.graph.node.append(helper.make_node("Sigmoid", ["raw"], ["head"]))
    model, manifest = files(model, ANCHORS + DETECTOR)
    with pytest.raises(ModelError, match="every score lies between 0 and 1, as after a sigmoid"):
        Detector(model, manifest=manifest)


@pytest.mark.parametrize(
    ("make", "text", "step"),
    [(detector_graph, ANCHORS + DETECTOR, Detector), (classifier_graph, MANIFEST, Classifier)],
    ids=["detector", "classifier"],
)
def test_outputs_that_are_not_finite_are_refused(files, make, text, step):
    made = make()
    node, name = made.graph.node[0], made.graph.output[0].name
    node.output[0] = "raw"
    made.graph.node.append(helper.make_node("Log", ["raw"], ["log"]))
    made.graph.node.append(helper.make_node("Mul", ["log", "raw"], [name]))
    model, manifest = files(made, text)
    with pytest.raises(ModelError, match=f"output {name} is not finite .* for a blank image"):
        step(model, manifest=manifest)


def test_a_crop_whose_classes_are_not_finite_is_an_error(files, image):
    made = classifier_graph()
    made.graph.node[0].output[0] = "mean"
    made.graph.node.append(helper.make_node("Sqrt", ["mean"], ["root"]))  # fails for bright crops
    made.graph.node.append(helper.make_node("Neg", ["root"], ["y"]))
    made.graph.node.insert(0, helper.make_node("Neg", ["x"], ["negative"]))
    made.graph.node[1].input[0] = "negative"
    model, manifest = files(made)
    classify = Classifier(model, manifest=manifest)
    with pytest.raises(RunError, match="the classifier's output is not finite"):
        classify(np.full_like(image, 255), np.array([[0, 0, 20, 20]], np.float32))
