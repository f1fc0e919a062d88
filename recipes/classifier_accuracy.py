"""How often the classifier is right: its head on classes it never saw, and int8 against float."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.session import open_model
from pipeline.zoo.evaluation.classification import Logits, TopAccuracy, top_accuracy
from pipeline.zoo.quantization.calibration import open_with_outputs
from recipes.classifier import (
    Say,
    Sources,
    fetch_blocks,
    fit_final,
    fit_to,
    load_examples,
)
from recipes.crops import central_crop, read_pictures
from recipes.examples import Examples, Teacher
from recipes.imagenet_labels import CLASSES
from recipes.mobilenet_v2 import build_mobilenet

_SPLIT_SEED = 0
_BATCH = 8


class ClassifierAccuracy(NamedTuple):
    """All figures of the model card.

    `unseen`: the head on classes left out of its fit, ranked among all 1000, mean of two halves;
    `teacher`: the teacher on the same crops; `float32` and `int8`: the final model, which saw all
    of them; `agreement`: percent of crops that the last two name alike.
    """

    unseen: TopAccuracy
    teacher: TopAccuracy
    float32: TopAccuracy
    int8: TopAccuracy
    agreement: float


def evaluate_classifier(
    data: Path, model: Path, *, work_dir: Path | None = None, say: Say
) -> ClassifierAccuracy:
    """Measure the recipe and the file `model` on the ImageNet pictures under `data`.

    Every picture is tested on one crop, the central 224 pixels after its shorter side became 256.
    Raises `InputError` where the pictures or the teacher are missing.
    """
    sources = Sources.under(data)
    examples = load_examples(sources, work_dir, say)
    teacher = Teacher(sources.teacher)
    say("fitting the head to either half of the classes")
    unseen = cross_validate(examples, teacher)
    test = examples.is_test
    taught = top_accuracy(teacher.head(examples.teacher_features[test]), examples.class_ids[test])
    say("running the float and the int8 model")
    head = fit_final(examples, sources)
    network = build_mobilenet(fetch_blocks(work_dir), (head.weight, head.bias))
    in_float = open_with_outputs(network, [])
    in_int8 = open_model(model, task="classify")
    answers: list[tuple[Logits, Logits]] = []
    for pixels in _test_batches(sources.pictures.imagenet):
        (expected,) = in_float.run(None, {"image": pixels})
        answers.append((expected, in_int8.run(pixels)[0]))
    expected, found = (np.concatenate(part) for part in zip(*answers, strict=True))
    classes = np.arange(CLASSES)
    return ClassifierAccuracy(
        unseen,
        taught,
        top_accuracy(expected, classes),
        top_accuracy(found, classes),
        100.0 * float(np.mean(expected.argmax(axis=1) == found.argmax(axis=1))),
    )


def cross_validate(examples: Examples, teacher: Teacher) -> TopAccuracy:
    """Two-fold over classes: no picture of a tested class is in the fit of the head tested."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(CLASSES)
    results = []
    for held_out in (order[: CLASSES // 2], order[CLASSES // 2 :]):
        is_held_out = np.isin(examples.class_ids, held_out)
        head = fit_to(examples, ~is_held_out, teacher)
        tested = is_held_out & examples.is_test
        results.append(top_accuracy(head(examples.features[tested]), examples.class_ids[tested]))
    return TopAccuracy(*(float(value) for value in np.mean(results, axis=0)))


def _test_batches(archive: Path) -> list[npt.NDArray[np.uint8]]:
    crops = np.stack([central_crop(image) for _, image in read_pictures(archive)])
    return [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]
