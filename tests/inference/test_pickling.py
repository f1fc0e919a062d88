"""Models can be sent to other processes: they open their file again there."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np

from pipeline import Classifier, Detector

SAMPLE = Path(__file__).resolve().parents[2] / "models" / "samples" / "cat.jpg"


def test_unpickled_models_give_the_same_answers():
    image = cv2.imread(str(SAMPLE))
    detect, classify = Detector(score_threshold=0.3), Classifier(top=2)
    found = detect(image)
    classes = classify(image, found.boxes)
    detect, classify = pickle.loads(pickle.dumps((detect, classify)))
    assert detect.score_threshold == 0.3
    again = detect(image)
    np.testing.assert_array_equal(again.boxes, found.boxes)
    np.testing.assert_array_equal(again.scores, found.scores)
    np.testing.assert_array_equal(classify(image, again.boxes).ids, classes.ids)
