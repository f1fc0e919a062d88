"""`make bench-transport`: images and results between processes, compared with other transports.

Every comparison is made in one run on this machine, in short alternating turns between processes
that stay alive; the figure is the median of the ratios, turn by turn. Images are 1280x720 raw BGR
unless JPEG is stated. A rate is that of images that arrived, not of those sent. imagezmq uses ipc
if we do, and the same JPEG encoder and decoder (simplejpeg).
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, group_parser, run_groups
from benchmarks.transport.links import Link, LinkError, link, process_figure

CAMERA_FPS = 30.0
FULL = 0.0
LATENCY_MS, WORST_MS = 0.35, 1.0
COPIES = 1.5


def parse_arguments() -> argparse.Namespace:
    parser = group_parser("benchmarks.transport", __doc__, "bench-transport", GROUPS)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    return parser.parse_args()


def latency_figures(folder: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    """Latency to the other process, compared with bare copies of the image."""
    for way in ("shm", "shm, drawn in place"):
        with link(way, folder) as made:
            for fps, pace in ((CAMERA_FPS, f"{CAMERA_FPS:g} frames/s"), (FULL, "full rate")):
                length = seconds * (3 if fps else 1)
                turns, copies = [], []
                for _ in range(rounds):
                    turns.append(made.turn(fps, length).latency_ms)
                    copies.append(made.copies_ms(fps, length / 3))
                yield from _latency(f"{way}, {pace}", turns, copies)


def _latency(name: str, turns: list[np.ndarray], copies: list[np.ndarray]) -> Iterator[Figure]:
    p50, p99 = map(float, np.percentile(np.concatenate(turns), [50, 99]))
    medians = [float(np.median(turn)) for turn in turns]
    what = f"{min(medians):.3f} to {max(medians):.3f} ms turn by turn"
    yield Figure(f"{name}: latency p50", p50, "ms", LATENCY_MS, False, what)
    worst = f"best turn {min(np.percentile(turn, 99) for turn in turns):.3f} ms"
    yield Figure(f"{name}: latency p99", p99, "ms", WORST_MS, False, worst)
    ratios = [m / float(np.median(copy)) for m, copy in zip(medians, copies, strict=True)]
    copy_ms = float(np.median(np.concatenate(copies)))
    yield Figure(
        f"{name}: latency p50 / one copy of the image",
        float(np.median(ratios)),
        "x",
        COPIES,
        False,
        f"a copy takes {copy_ms:.3f} ms; ratios {min(ratios):.2f} to {max(ratios):.2f}",
    )


def rate_figures(folder: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    """Images per second at full rate, over the rate of other transports."""
    req, pub = "imagezmq REQ/REP", "imagezmq PUB/SUB"
    jpeg = {"imagezmq JPEG REQ/REP": 1.0, "imagezmq JPEG PUB/SUB": 1.0}
    for ours, others in (
        ("shm", {req: 4.0, pub: 4.0, "dora": 2.0}),
        ("raw", {req: 1.5, pub: 1.5}),
        ("jpeg", jpeg),
    ):
        yield from _compare(ours, others, folder, rounds, seconds)


def _compare(
    ours: str, others: dict[str, float], folder: Path, rounds: int, seconds: float
) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(link(ours, folder))
        theirs = {name: _try_link(name, folder, stack) for name in others}
        rates: dict[str, list[float]] = {name: [] for name in others}
        own: dict[str, list[float]] = {name: [] for name in others}
        for _ in range(rounds):
            for name, their in theirs.items():
                if isinstance(their, Link):
                    own[name].append(mine.turn(FULL, seconds).received_fps)
                    rates[name].append(their.turn(FULL, seconds).received_fps)
    for name, target in others.items():
        title = f"{ours} rate / {name}"
        if not rates[name]:
            yield Figure(title, float("nan"), "x", None, detail=f"not measured: {theirs[name]}")
            continue
        ratios = [a / b if b else np.inf for a, b in zip(own[name], rates[name], strict=True)]
        detail = f"{np.median(own[name]):.0f} against {np.median(rates[name]):.0f} frames/s"
        spread = f"ratios {min(ratios):.2f} to {max(ratios):.2f}"
        yield Figure(title, float(np.median(ratios)), "x", target, detail=f"{detail}, {spread}")


def _try_link(way: str, folder: Path, stack: contextlib.ExitStack) -> Link | LinkError:
    try:
        return stack.enter_context(link(way, folder))
    except LinkError as error:
        return error


def subscriber_figures(folder: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    """The publisher's cost of more subscribers."""
    with link("shm", folder) as one, link("shm", folder, 10) as ten:
        ratios, ones, tens = [], [], []
        for _ in range(rounds):
            ones.append(one.turn(CAMERA_FPS, 2 * seconds).cpu_ms)
            tens.append(ten.turn(CAMERA_FPS, 2 * seconds).cpu_ms)
            ratios.append((tens[-1] / ones[-1] - 1) / 9)
    yield Figure(
        "ten subscribers: growth of the publisher's cost per subscriber",
        float(np.median(ratios)) * 100,
        "%",
        10.0,
        False,
        f"{np.median(ones):.3f} ms of processor time per frame with one, {np.median(tens):.3f} "
        f"with ten, at {CAMERA_FPS:g} frames/s",
    )


def fleet_figures(folder: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    yield process_figure(folder, max(rounds // 2, 2), 12 * seconds)


GROUPS = {
    "latency": latency_figures,
    "rates": rate_figures,
    "subscribers": subscriber_figures,
    "processes": fleet_figures,
}


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        sizes = Path(folder), arguments.rounds, arguments.seconds
        run_groups({n: lambda _, m=measure: m(*sizes) for n, measure in GROUPS.items()}, arguments)


if __name__ == "__main__":
    main()
