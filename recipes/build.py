"""`python -m recipes.build`: the model files and sample pictures that travel with the package.

Needs the extra `convert` and, for the models, a folder of pictures; what is missing is said, and
the rest is built.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import InputError, VisionError
from recipes import classifier, detector
from recipes.samples import build_samples

EXIT_INCOMPLETE = 2
EXIT_FAULT = 1

_log = logging.getLogger("vision")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build everything; returns 0, or 2 where something was missing, or 1 where something broke."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    calibration = options.calibration_images or options.data / "images/coco-train128/images"
    out, work_dir = options.out, options.work
    detector_path = out / f"{detector.NAME}.onnx"
    classifier_path = out / f"{classifier.NAME}.onnx"
    steps: dict[Path, Callable[[], object]] = {
        out / "samples": lambda: build_samples(out / "samples", work_dir),
        detector_path: lambda: detector.build(
            calibration, detector_path, work_dir=work_dir, say=_log.info
        ),
        classifier_path: lambda: classifier.build(
            options.data, classifier_path, work_dir=work_dir, say=_log.info
        ),
    }
    codes = [_attempt(target, step) for target, step in steps.items()]
    return EXIT_FAULT if EXIT_FAULT in codes else max(codes)


def _attempt(target: Path, step: Callable[[], object]) -> int:
    """One step; an error is said on one line and does not keep the others from running."""
    _log.info("%s:", target)
    try:
        step()
    except VisionError as error:
        _log.error("%s: not built: %s", target, error)
        return EXIT_INCOMPLETE if isinstance(error, InputError) else EXIT_FAULT
    _log.info("%s: done", target)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.build", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared"),
        help="folder with models/ and images/ to train and calibrate with [%(default)s]",
    )
    parser.add_argument(
        "--calibration-images",
        type=Path,
        metavar="FOLDER",
        help="pictures to calibrate the detector with [DATA/images/coco-train128/images]",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("models"), help="where to write [%(default)s]"
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where to keep downloads [the user's cache]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
