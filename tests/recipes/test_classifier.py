"""The shipped classifier: how it is built, and what it makes of real images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError, ModelError
from pipeline.inference.classifier import Classifier
from pipeline.zoo.evaluation.classification import TopAccuracy, top_accuracy
from recipes.classifier import Sources, build
from recipes.crops import imagenet_crop, read_images
from recipes.examples import Examples, Teacher

MODEL = Path(__file__).resolve().parents[2] / "models" / "mobilenetv2-int8.onnx"


def test_all_missing_sources_are_listed_and_the_model_is_unchanged(tmp_path):
    output = tmp_path / "model.onnx"
    output.write_bytes(b"as it was")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "caltech101-192.tar").touch()
    with pytest.raises(InputError) as caught:
        build(tmp_path, output, work_dir=tmp_path / "work", say=lambda _: None)
    message = str(caught.value)
    for name in ("mobilenet_v2_1.0_224.onnx", "imagenet_labels.txt", "imagenet-1000.tar", "coco-"):
        assert name in message
    assert "caltech" not in message
    assert output.read_bytes() == b"as it was"


def test_teacher_agrees_with_its_own_file(shared):
    """The features times the last layer must equal the logits of the file."""
    ort = pytest.importorskip("onnxruntime")
    path = Sources.under(shared).teacher
    teacher = Teacher(path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = (pixels[..., ::-1] / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2)
    (expected,) = session.run(["logits"], {"image": np.ascontiguousarray(image)})
    np.testing.assert_allclose(teacher.head(teacher(pixels)), expected[:, 1:], atol=1e-3)


def test_network_without_a_final_linear_layer_is_refused_as_teacher():
    pytest.importorskip("onnx")
    with pytest.raises(ModelError, match="expected a GlobalAveragePool and one convolution"):
        Teacher(MODEL)


def test_examples_are_loaded_as_saved(tmp_path):
    rng = np.random.default_rng(0)
    examples = Examples(
        rng.normal(size=(4, 3)).astype(np.float16),
        rng.normal(size=(4, 2)).astype(np.float16),
        np.array([0, 0, -1, 2], np.int32),
        np.array([True, False, False, True]),
        rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8),
    )
    examples.save(tmp_path / "new" / "examples.npz")
    found = Examples.load(tmp_path / "new" / "examples.npz")
    for name in ("features", "teacher_features", "class_ids", "is_test", "samples"):
        np.testing.assert_array_equal(getattr(found, name), getattr(examples, name))
        assert getattr(found, name).dtype == getattr(examples, name).dtype


def test_ties_count_against_top_accuracy():
    logits = np.array(
        [
            [9, 1, 2, 3, 4, 5, 6],  # right
            [9, 8, 1, 2, 3, 4, 5],  # class 1: second
            [9, 8, 7, 6, 5, 4, 3],  # class 5: sixth
            [9, 9, 1, 1, 1, 1, 1],  # class 0: ties with another
        ],
        np.float32,
    )
    assert top_accuracy(logits, np.array([0, 1, 5, 0])) == TopAccuracy(25.0, 75.0)


def test_shipped_model_classifies_imagenet_images(shared):
    """One in twenty of the images for which the model card states 83.6 % and 97.3 %."""
    classify = Classifier(MODEL, top=5)
    names = list(read_images(Sources.under(shared).images.imagenet))
    answers = []
    for class_id in range(0, 1000, 20):
        crop = np.ascontiguousarray(imagenet_crop(names[class_id][1]))
        (logits,) = classify.model.run(crop[None])
        answers.append((logits[0], class_id))
    logits, classes = (np.array(part) for part in zip(*answers, strict=True))
    found = top_accuracy(logits, classes)
    assert found.top1 >= 70
    assert found.top5 >= 90


@pytest.mark.parametrize(
    ("sample", "box", "expected"),
    [
        ("cat.jpg", (10, 0, 420, 290), {"tabby", "tiger cat", "Egyptian cat"}),
        ("coffee.jpg", (166, 14, 408, 265), {"espresso", "cup", "coffee mug"}),
    ],
    ids=["cat", "cup"],
)
def test_sample_is_classified_correctly(sample, box, expected):
    classify = Classifier(MODEL, top=5)
    image = cv2.imread(str(MODEL.parent / "samples" / sample))
    found = classify(image, np.array([box], np.float32))
    names = {classify.labels[index] for index in found.ids[0]}
    assert names & expected
    assert found.scores[0].sum() > 0.5


def test_shipped_model_is_small_and_has_distinct_labels():
    assert MODEL.stat().st_size <= 4_500_000
    labels = Classifier(MODEL).labels
    assert len(labels) == len({label.casefold() for label in labels}) == 1000
