"""`python -m recipes.rounding_noise`: how much results change if pixels change by their rounding.

Builds of OpenCV round differently when they resize: for some image sizes, those for Arm differ from
those for x86 by 1 in every fourth value. The float and the int8 detector are run on images at the
network's size, on copies in which a share of the values, chosen at random, is 1 higher or lower,
and on images that are resized with exact rounding. The objects are paired with those of the first
run by class and overlap; a table of AP and of the differences is printed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, VisionError
from pipeline.settings import Settings
from pipeline.types import Detections, Image
from pipeline.zoo.datasets.annotations import LabelledImage
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.evaluation.detection import evaluate_detector, open_to_evaluate
from pipeline.zoo.evaluation.metrics import SAME_OBJECT, overlaps
from recipes import detector
from recipes.build import add_folders

EXIT_BAD_INPUT = 2
EXIT_FAULT = 1

SHARE = 0.2
_SEED = 0
_REPEATS = 100

Pixels = npt.NDArray[np.uint8]

_log = logging.getLogger("vision")


Change = Callable[[Image, Pixels, np.random.Generator, float], Pixels]


def _unchanged(
    _image: Image, pixels: Pixels, _random: np.random.Generator, _share: float
) -> Pixels:
    return pixels


def _at_random(_image: Image, pixels: Pixels, random: np.random.Generator, share: float) -> Pixels:
    step = random.choice(np.array([-1, 1], np.int16), pixels.shape)
    step *= random.random(pixels.shape, np.float32) < share
    return np.asarray(np.clip(pixels + step, 0, 255), np.uint8)


def _exactly(image: Image, pixels: Pixels, _random: np.random.Generator, _share: float) -> Pixels:
    height, width = pixels.shape[1:3]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(resized, np.uint8)[None]


CHANGES: dict[str, Change] = {
    "unchanged": _unchanged,
    "+-1 at random": _at_random,
    "exact rounding": _exactly,
}


@dataclass
class Noise:
    """The differences between the objects of pairs of runs: scores, box edges, objects in one."""

    scores: list[float] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)
    unpaired: int = 0

    def add(self, before: Detections, after: Detections) -> None:
        """Pair the objects of one image, best score first."""
        shared = overlaps(before.boxes, after.boxes)
        shared[before.class_ids[:, None] != after.class_ids[None, :]] = 0.0
        paired = 0
        for number, row in enumerate(shared):
            if len(row) and row.max() >= SAME_OBJECT:
                other = int(row.argmax())
                shared[:, other] = 0.0
                paired += 1
                self.scores.append(abs(float(before.scores[number] - after.scores[other])))
                moved = np.abs(before.boxes[number] - after.boxes[other])
                self.edges.append(float(moved.max()))
        self.unpaired += len(before) + len(after) - 2 * paired

    def columns(self) -> str:
        """The figures of the table."""
        scores = np.array(self.scores)
        return (
            f"{scores.mean():.4f} {np.percentile(scores, 95):.4f} {scores.max():.4f}"
            f" {np.mean(self.edges):8.2f} {len(scores):6} {self.unpaired:6}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both detectors; returns 0, or 2 if an input is missing, or 1 if something failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        images = read_yolo_folder(options.data / "images/coco-val128")[: options.images]
        float32 = detector.build_float(options.work, _log.info).path
        int8 = options.models / f"{detector.NAME}.onnx"
        _print(
            f"{'detector':17} {'pixels':15} AP     score: mean, 95 %, max  edge px  pairs single"
        )
        for path in (float32, int8):
            for name, ap, noise in measure(path, images, options.share):
                _print(f"{path.stem:17} {name:15} {ap:.2f}  {noise.columns()}")
        for name, way in (("INTER_LINEAR", cv2.INTER_LINEAR), ("exact", cv2.INTER_LINEAR_EXACT)):
            _print(f"resize of 1280x720, {name}: {resize_ms(way):.2f} ms")
    except VisionError as error:
        _log.error("%s", error)
        return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAULT
    return 0


def measure(
    model: Path, images: Sequence[LabelledImage], share: float
) -> Iterator[tuple[str, float, Noise]]:
    """AP and the differences from the unchanged run, for each of `CHANGES`."""
    detect = open_to_evaluate(model)
    first: list[Detections] = []
    for name, change in CHANGES.items():
        found: list[Detections] = []
        random = np.random.default_rng(_SEED)

        def run(image: Image) -> Detections:
            prepared = detect.prepare(image)
            pixels = change(image, prepared.pixels, random, share)  # noqa: B023 - called here
            found.append(detect.infer(prepared._replace(pixels=pixels)))  # noqa: B023
            return found[-1]  # noqa: B023

        ap = evaluate_detector(run, images).ap
        first = first or found
        noise = Noise()
        for before, after in zip(first, found, strict=True):
            noise.add(_certain(before), _certain(after))
        yield name, ap, noise


def resize_ms(interpolation: int) -> float:
    """The least time of a resize to the detector's input on one core."""
    image = np.random.default_rng(_SEED).integers(0, 256, (720, 1280, 3), np.uint8)
    out = np.empty((416, 416, 3), np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)

    def resize() -> None:
        cv2.resize(image, (416, 416), dst=out, interpolation=interpolation)

    times_s = timeit.repeat(resize, number=1, repeat=_REPEATS)
    cv2.setNumThreads(threads)
    return min(times_s) * 1e3


def _certain(found: Detections) -> Detections:
    """The objects that `vision run` reports."""
    kept = found.scores >= Settings.score
    return Detections(found.boxes[kept], found.scores[kept], found.class_ids[kept], found.labels)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.rounding_noise", description=__doc__)
    add_folders(parser)
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of the int8 model [%(default)s]"
    )
    parser.add_argument(
        "--share", type=float, default=SHARE, help="share of values that change [%(default)s]"
    )
    parser.add_argument("--images", type=int, help="how many images [all]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
