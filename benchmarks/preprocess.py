"""Resizing a 1280x720 image to the network's input, against `cv2.resize` and `blobFromImage`.

`blobFromImage` allocates 2 MB per image. In a young process the allocator takes them from the
system and returns them each time, so every page is faulted in again; in a process whose heap was
once large it does not. Both are measured, each in a separate process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np

from benchmarks.figures import Figure, measure_pair
from pipeline.inference.preprocess import place, resize_into

SIZE = (416, 416)
CALLS = 20


def preprocess_figures(rounds: int) -> Iterator[Figure]:
    """The ratio in a young process, which has the target, and in one with a large heap."""
    for heap, target in (("young", 1 / 5), ("large", None)):
        command = [sys.executable, "-m", "benchmarks.preprocess", heap, str(rounds)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        ratio, ours_ms, usual_ms = json.loads(output)
        yield Figure(
            f"preprocess 1280x720 / (cv2.resize + blobFromImage), {heap} heap",
            ratio,
            "x",
            target,
            at_least=False,
            detail=f"{ours_ms:.3f} ms against {usual_ms:.3f} ms",
        )


def main() -> None:
    heap, rounds = sys.argv[1], int(sys.argv[2])
    cv2.setNumThreads(1)
    if heap == "large":
        held = [np.ones(30_000_000, np.uint8) for _ in range(2)]
        del held
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)

    def ours() -> None:
        for _ in range(CALLS):
            pixels = np.empty((1, SIZE[1], SIZE[0], 3), np.uint8)
            resize_into(frame, pixels[0], place(1280, 720, *SIZE, "stretch"))

    def usual() -> None:
        for _ in range(CALLS):
            resized = cv2.resize(frame, SIZE)
            cv2.dnn.blobFromImage(resized, 1 / 255.0, SIZE, swapRB=True)

    pair = measure_pair(ours, usual, rounds)
    print(json.dumps([pair.ratio, pair.first_s / CALLS * 1e3, pair.second_s / CALLS * 1e3]))


if __name__ == "__main__":
    main()
