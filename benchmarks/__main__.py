"""`make bench`: measures everything in one run, prints a table and writes it as JSON."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, group_parser, run_groups
from benchmarks.footprint import first_result_figures, memory_figures
from benchmarks.kernels import decode_figures
from benchmarks.live import live_figures
from benchmarks.models import float_models
from benchmarks.preprocess import preprocess_figures
from benchmarks.throughput import efficiency_figure, speed_figures
from pipeline.inference.detector import Detector
from pipeline.sources import open_source

VIDEO = "videos/bottle-detection.mp4"


def parse_arguments() -> argparse.Namespace:
    parser = group_parser("benchmarks", __doc__, "bench", GROUPS)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with videos/")
    parser.add_argument("--frames", type=int, default=200, help="frames of the video per round")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of each comparison")
    parser.add_argument("--live-seconds", type=float, default=60, help="length of the live run")
    parser.add_argument("--memory-frames", type=int, default=5000, help="length of the memory run")
    return parser.parse_args()


def speed(arguments: argparse.Namespace) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        models = float_models(Path(folder))
        yield from speed_figures(arguments.data / VIDEO, arguments.frames, arguments.rounds, models)


def efficiency(arguments: argparse.Namespace) -> Iterator[Figure]:
    yield efficiency_figure(arguments.data / VIDEO, arguments.frames, arguments.rounds)


def kernels(arguments: argparse.Namespace) -> Iterator[Figure]:
    yield from preprocess_figures(arguments.rounds * 4)
    yield from decode_figures(
        Detector(threads=1), read_images(arguments.data / VIDEO, 40), arguments.rounds * 4
    )


def live(arguments: argparse.Namespace) -> Iterator[Figure]:
    yield from live_figures(arguments.live_seconds)


def footprint(arguments: argparse.Namespace) -> Iterator[Figure]:
    yield from memory_figures(arguments.memory_frames)
    yield from first_result_figures(arguments.data / VIDEO)


GROUPS = {
    "kernels": kernels,
    "speed": speed,
    "efficiency": efficiency,
    "live": live,
    "footprint": footprint,
}


def read_images(video: Path, count: int) -> list[np.ndarray]:
    """Frames spread over the first minute of a video."""
    images = []
    with open_source(str(video)) as source:
        while len(images) < count * 10 and (frame := source.read()) is not None:
            images.append(frame.image)
    return images[::10]


if __name__ == "__main__":
    run_groups(GROUPS, parse_arguments())
