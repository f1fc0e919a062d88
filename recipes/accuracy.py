"""`python -m recipes.accuracy`: the figures of the model cards, measured anew.

The detector is measured on labelled pictures that nothing was trained or calibrated with here, the
classifier as its own module says. A table goes to standard output, everything to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from pipeline.errors import InputError, VisionError
from pipeline.zoo.evaluation.detection import read_yolo_folder
from pipeline.zoo.evaluation.detector_accuracy import measure_accuracy, measure_speed
from pipeline.zoo.onnx_file import write_atomically
from recipes import classifier, detector
from recipes.classifier_accuracy import evaluate_classifier

EXIT_BAD_INPUT = 2
EXIT_FAULT = 1

_log = logging.getLogger("vision")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both models; returns 0, or 2 where something is missing, or 1 where it broke."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    report: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
    }
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


def _detector(options: argparse.Namespace) -> dict[str, Any]:
    int8 = options.models / f"{detector.NAME}.onnx"
    pictures = read_yolo_folder(options.data / "images/coco-val128")
    float32 = detector.build_float(options.work, _log.info).path
    _log.info("measuring the detector on %d pictures", len(pictures))
    figures = measure_accuracy((float32, int8), pictures)
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
        "pictures": len(pictures),
        "accuracy": [
            {**f._asdict(), "accuracy": {"ap": f.accuracy.ap, "ap50": f.accuracy.ap50}}
            for f in figures
        ],
        "timing": [timing._asdict() for timing in timings],
    }


def _classifier(options: argparse.Namespace) -> dict[str, Any]:
    model = options.models / f"{classifier.NAME}.onnx"
    figures = evaluate_classifier(options.data, model, work_dir=options.work, say=_log.info)
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
    """Columns as wide as their widest cell, on standard output."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.accuracy", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared"),
        help="folder with models/ and images/ [%(default)s]",
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="what to measure [%(default)s]"
    )
    parser.add_argument("--only", choices=("detector", "classifier"), help="measure one of them")
    parser.add_argument(
        "--json", type=Path, default=Path("build/accuracy.json"), help="[%(default)s]"
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where to keep downloads [the user's cache]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
