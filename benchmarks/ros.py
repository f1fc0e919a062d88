"""Measures what ROS 2 adds to the engine, with nodes in processes (`make bench-ros`).

Needs the ROS 2 environment of `make test-ros`. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, report
from benchmarks.ros_processes import NodeProcess, Watcher
from nodes.images.image_messages import image_from, image_message
from nodes.messages.headers import header_message
from nodes.middleware import make_room_for_images
from pipeline.engine import Pipeline
from pipeline.inference.detector import Detector
from pipeline.sources import open_source

SCENE = "scene:?size=640x480&fps=30"
WARM_UP_S = 3.0


def conversion_figures(rounds: int = 200) -> Iterator[Figure]:
    """The median conversion times of 1280x720 bgr8."""
    image = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)
    header = header_message(0, "camera")
    message = image_message(image, header)
    there = [_timed_ms(lambda: image_from(message)) for _ in range(rounds)]
    back = [_timed_ms(lambda: image_message(image, header)) for _ in range(rounds)]
    yield Figure("1280x720 bgr8 message to a frame", float(np.median(there)), "ms", 0.4, False)
    yield Figure("1280x720 frame to a bgr8 message", float(np.median(back)), "ms", 1.5, False)


def _timed_ms(step) -> float:
    started = time.perf_counter()
    step()
    return (time.perf_counter() - started) * 1e3


def idle_figure(seconds: float) -> Iterator[Figure]:
    """The CPU use of a subscribed detector that gets no images."""
    with NodeProcess("detector_node", {"image_timeout": 3600.0}) as node:
        node.wait_for("sha256")
        time.sleep(WARM_UP_S)
        used = node.cpu_share(seconds)
    yield Figure(
        "CPU of an idle, subscribed detector_node", 100 * used, "% of a core", 2.0, at_least=False
    )


def age_figures(seconds: float, rounds: int) -> Iterator[Figure]:
    """The age of `detections` at a subscriber and of the engine's results, in turns."""
    engine, subscriber = [], []
    for _ in range(rounds):
        engine.append(_engine_age_ms(seconds))
        with ExitStack() as stack:
            stack.enter_context(NodeProcess("camera_node", {"source": SCENE}))
            stack.enter_context(NodeProcess("detector_node"))
            watcher = stack.enter_context(Watcher("detections"))
            subscriber.append(np.median(watcher.ages_ms(WARM_UP_S, seconds)))
    differences = [b - a for a, b in zip(engine, subscriber, strict=True)]
    yield Figure(
        "age of detections at a subscriber beyond the engine's own (p50)",
        float(np.median(differences)),
        "ms",
        5.0,
        at_least=False,
        detail=f"engine {np.median(engine):.1f} ms, subscriber {np.median(subscriber):.1f} ms, "
        f"{rounds} rounds",
    )


def _engine_age_ms(seconds: float) -> float:
    with Pipeline(open_source(SCENE), Detector(), duration_s=seconds) as results:
        ages = [(time.time_ns() - result.header.stamp_ns) / 1e6 for result in results]
    return float(np.median(ages[len(ages) // 4 :]))


def composition_figures(seconds: float) -> Iterator[Figure]:
    """Rate and age of classified detections, from one process and from three."""
    for name, nodes, topic in (
        ("one process", [("vision_node", {"source": SCENE})], "detections"),
        (
            "three processes",
            [("camera_node", {"source": SCENE}), ("detector_node", {}), ("classifier_node", {})],
            "classified_detections",
        ),
    ):
        with ExitStack() as stack:
            processes = [stack.enter_context(NodeProcess(*node)) for node in nodes]
            ages = stack.enter_context(Watcher(topic)).ages_ms(WARM_UP_S, seconds)
            cpu = sum(process.cpu_share(2.0) for process in processes)
        p50, p95, p99 = np.percentile(ages, (50, 95, 99))
        detail = f"p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms; {100 * cpu:.0f} % of a core"
        yield Figure(f"{name}: results", len(ages) / seconds, "per second", detail=detail)
        yield Figure(f"{name}: age p50", float(p50), "ms")


GROUPS = {
    "conversion": lambda _: conversion_figures(),
    "idle": lambda arguments: idle_figure(arguments.seconds),
    "age": lambda arguments: age_figures(arguments.seconds, arguments.rounds),
    "composition": lambda arguments: composition_figures(arguments.seconds),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("build/bench-ros.json"))
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of the age comparison")
    parser.add_argument("--only", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100))
    os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp())
    make_room_for_images()
    figures = [figure for name in arguments.only for figure in GROUPS[name](arguments)]
    report(figures, arguments.json)
    sys.exit(any(figure.reached is False for figure in figures))


if __name__ == "__main__":
    main()
