"""`python -m recipes.accuracy`: measures the figures of the model cards.

The detector is measured on labelled images that were not used to train or calibrate it. The
classifier's head is measured on classes that were left out of its fit, and int8 against float. A
table is printed to standard output, everything is written to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.errors import InputError, VisionError
from pipeline.files.writing import write_atomically
from pipeline.inference.session import open_model
from pipeline.settings import NmsKind, Settings
from pipeline.zoo.datasets.annotations import LabelledImage
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.evaluation.classification import Logits, TopAccuracy, top_accuracy
from pipeline.zoo.evaluation.detection import Accuracy, evaluate_detector, open_to_evaluate
from pipeline.zoo.evaluation.timing import measure_speed
from pipeline.zoo.onnx_file import open_with_outputs
from recipes import classifier, detector
from recipes.build import add_folders
from recipes.crops import imagenet_crop, read_images
from recipes.examples import Examples, Teacher
from recipes.imagenet_labels import CLASSES
from recipes.mobilenet_v2 import build_mobilenet

EXIT_BAD_INPUT = 2
EXIT_FAULT = 1

_NMS: tuple[tuple[NmsKind, float], ...] = (("darknet", 0.6), ("iou", Settings.nms))
_SPLIT_SEED = 0
_BATCH = 8

_log = logging.getLogger("vision")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both models; returns 0, or 2 if an input is missing, or 1 if something failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    report: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "machine": platform.machine()}
    code = 0
    for name, measure in (("detector", _detector), ("classifier", _classifier)):
        if options.only not in (None, name):
            continue
        try:
            report[name] = measure(options)
        except VisionError as error:
            _log.error("%s: not measured: %s", name, error)
            code = EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAULT
    try:
        write_atomically(options.json, f"{json.dumps(report, indent=2)}\n".encode())
    except VisionError as error:
        _log.error("%s", error)
        return EXIT_FAULT
    _log.info("written to %s", options.json)
    return code


class DetectorAccuracy(NamedTuple):
    """The accuracy of one model with one kind of suppression."""

    model: str
    nms_kind: str
    nms_threshold: float
    accuracy: Accuracy


def measure_detectors(
    models: Sequence[Path], images: Sequence[LabelledImage]
) -> list[DetectorAccuracy]:
    """Return AP and AP50 of each model, with Darknet's suppression and with plain IoU."""
    figures = []
    for path in models:
        for kind, threshold in _NMS:
            detect = open_to_evaluate(path, nms_threshold=threshold, nms_kind=kind)
            accuracy = evaluate_detector(detect, images)
            figures.append(DetectorAccuracy(path.stem, kind, threshold, accuracy))
    return figures


def _detector(options: argparse.Namespace) -> dict[str, Any]:
    int8 = options.models / f"{detector.NAME}.onnx"
    images = read_yolo_folder(options.data / "images/coco-val128")
    float32 = detector.build_float(options.work, _log.info).path
    _log.info("measuring the detector on %d images", len(images))
    figures = measure_detectors((float32, int8), images)
    timings = measure_speed(float32, int8)
    _table(
        ("detector", "NMS", "AP", "AP50"),
        [
            (f.model, f"{f.nms_kind} {f.nms_threshold}", f"{f.accuracy.ap:.2f}",
             f"{f.accuracy.ap50:.2f}")
            for f in figures
        ],
    )  # fmt: skip
    _table(
        ("threads", "float ms", "int8 ms", "speed-up"),
        [
            (str(t.threads), f"{t.float32_ms:.1f}", f"{t.int8_ms:.1f}", f"{t.speedup:.2f}")
            for t in timings
        ],
    )
    return {
        "images": len(images),
        "accuracy": [
            {**f._asdict(), "accuracy": {"ap": f.accuracy.ap, "ap50": f.accuracy.ap50}}
            for f in figures
        ],
        "timing": [timing._asdict() for timing in timings],
    }


class ClassifierAccuracy(NamedTuple):
    """The figures of the classifier's model card.

    `unseen`: the head on classes left out of its fit, ranked among all 1000, mean of two halves;
    `teacher`: the teacher on the same crops; `float32` and `int8`: the final model, fitted to all
    crops; `agreement`: percent of crops with the same answer of both.
    """

    unseen: TopAccuracy
    teacher: TopAccuracy
    float32: TopAccuracy
    int8: TopAccuracy
    agreement: float


def measure_classifier(
    data: Path, model: Path, *, work_dir: Path | None = None, say: detector.Say
) -> ClassifierAccuracy:
    """Measure the recipe and the file `model` on the ImageNet images under `data`.

    Every image is tested on one crop, the central 224 pixels after its shorter side was resized to
    256. Raises `InputError` if the images or the teacher are missing.
    """
    sources = classifier.Sources.under(data)
    examples = classifier.load_examples(sources, work_dir, say)
    teacher = Teacher(sources.teacher)
    say("fitting the head to either half of the classes")
    unseen = cross_validate(examples, teacher)
    test = examples.is_test
    taught = top_accuracy(teacher.head(examples.teacher_features[test]), examples.class_ids[test])
    say("running the float and the int8 model")
    head = classifier.fit_final(examples, sources)
    blocks = classifier.fetch_blocks(work_dir)
    in_float = open_with_outputs(build_mobilenet(blocks, (head.weight, head.bias)))
    in_int8 = open_model(model, task="classify")
    answers: list[tuple[Logits, Logits]] = []
    for pixels in _test_batches(sources.images.imagenet):
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
    """Test heads on the half of the classes of which no image is in their fit."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(CLASSES)
    results = []
    for held_out in (order[: CLASSES // 2], order[CLASSES // 2 :]):
        is_held_out = np.isin(examples.class_ids, held_out)
        head = classifier.fit_to(examples, ~is_held_out, teacher)
        tested = is_held_out & examples.is_test
        results.append(top_accuracy(head(examples.features[tested]), examples.class_ids[tested]))
    return TopAccuracy(*(float(value) for value in np.mean(results, axis=0)))


def _test_batches(archive: Path) -> list[npt.NDArray[np.uint8]]:
    crops = np.stack([imagenet_crop(image) for _, image in read_images(archive)])
    return [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]


def _classifier(options: argparse.Namespace) -> dict[str, Any]:
    model = options.models / f"{classifier.NAME}.onnx"
    figures = measure_classifier(options.data, model, work_dir=options.work, say=_log.info)
    rows = {
        "head on unseen classes": figures.unseen,
        "teacher": figures.teacher,
        "float": figures.float32,
        "int8": figures.int8,
    }
    _table(
        ("classifier", "top-1", "top-5"),
        [(name, f"{top.top1:.1f}", f"{top.top5:.1f}") for name, top in rows.items()],
    )
    return {
        "agreement": figures.agreement,
        **{name.replace(" ", "_"): top._asdict() for name, top in rows.items()},
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.accuracy", description=__doc__)
    add_folders(parser)
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="models to measure [%(default)s]"
    )
    parser.add_argument("--only", choices=("detector", "classifier"), help="measure one of them")
    parser.add_argument(
        "--json", type=Path, default=Path("build/accuracy.json"), help="[%(default)s]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
