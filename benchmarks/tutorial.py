"""The loop that tutorials teach, to compare with.

VideoCapture, `blobFromImage`, fp32 ONNX Runtime sessions with default settings, decode in NumPy,
`cv2.dnn.NMSBoxes`, and an fp32 MobileNetV2 on one crop at a time. The networks hold the same
weights as the pipeline's; only their input is the usual float NCHW blob.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from pipeline.inference.spec import ModelSpec

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def numpy_decode(
    heads: list[np.ndarray], spec: ModelSpec, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """All anchors' boxes x y w h (n, 4) in pixels and class scores (n, classes)."""
    boxes, scores = [], []
    for head, description in zip(heads, spec.head.outputs, strict=True):
        anchors = np.array(description.anchors, np.float32)
        rows, columns = head.shape[2:]
        grid = head[0].reshape(len(anchors), -1, rows, columns)
        scale = description.scale_x_y
        column, row = np.meshgrid(np.arange(columns), np.arange(rows))
        x = (column + sigmoid(grid[:, 0]) * scale - (scale - 1) / 2) / columns * width
        y = (row + sigmoid(grid[:, 1]) * scale - (scale - 1) / 2) / rows * height
        w = np.exp(grid[:, 2]) * anchors[:, 0, None, None] / spec.input.width * width
        h = np.exp(grid[:, 3]) * anchors[:, 1, None, None] / spec.input.height * height
        boxes.append(np.stack([x - w / 2, y - h / 2, w, h], -1).reshape(-1, 4))
        score = sigmoid(grid[:, 4:5]) * sigmoid(grid[:, 5:])
        scores.append(score.transpose(0, 2, 3, 1).reshape(-1, score.shape[1]))
    return np.concatenate(boxes), np.concatenate(scores)


class TutorialLoop:
    """One frame after the other on one Python thread, as most examples do."""

    def __init__(self, detector: Path, classifier: Path, spec: ModelSpec) -> None:
        self.spec = spec
        self.detector = ort.InferenceSession(str(detector), providers=["CPUExecutionProvider"])
        self.classifier = ort.InferenceSession(str(classifier), providers=["CPUExecutionProvider"])

    def run(self, video: Path, frames: int) -> tuple[int, int]:
        """Go through the video; returns the numbers of frames and of crops."""
        capture = cv2.VideoCapture(str(video))
        done = crops = 0
        while done < frames:
            ok, frame = capture.read()
            if not ok:
                break
            done += 1
            for x, y, w, h in self.detect(frame):
                crop = frame[max(y, 0) : y + h, max(x, 0) : x + w]
                if crop.size:
                    self.classify(crop)
                    crops += 1
        capture.release()
        return done, crops

    def detect(self, frame: np.ndarray) -> np.ndarray:
        size = (self.spec.input.width, self.spec.input.height)
        blob = cv2.dnn.blobFromImage(frame, 1 / 255.0, size, swapRB=True, crop=False)
        heads = self.detector.run(None, {self.detector.get_inputs()[0].name: blob})
        boxes, scores = numpy_decode(heads, self.spec, frame.shape[1], frame.shape[0])
        class_ids = scores.argmax(1)
        best = scores[np.arange(len(scores)), class_ids]
        above = best > 0.25
        boxes, best = boxes[above], best[above]
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), best.tolist(), 0.25, 0.45)
        return boxes[np.array(kept, int).reshape(-1)].astype(int)

    def classify(self, crop: np.ndarray) -> int:
        blob = cv2.dnn.blobFromImage(crop, 1 / 255.0, (224, 224), swapRB=True)
        blob = (blob - MEAN) / STD
        (logits,) = self.classifier.run(None, {self.classifier.get_inputs()[0].name: blob})
        return int(logits[0].argmax())
