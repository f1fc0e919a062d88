"""Measures what ROS 2 adds to the engine, with nodes in processes (`make bench-ros`).

Needs the ROS 2 environment of `make test-ros`. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile
from vision_msgs.msg import Detection2DArray

from benchmarks.figures import Figure, group_parser, run_groups
from nodes.images.image_messages import image_from, image_message
from nodes.messages.headers import header_message, stamp_ns
from nodes.middleware import make_room_for_images
from pipeline.engine import Pipeline
from pipeline.inference.detector import Detector
from pipeline.sources import open_source

SCENE = "scene:?size=640x480&fps=30"
WARM_UP_S = 3.0
END_S = 5.0


class NodeProcess:
    """A node in a separate process, as a context manager."""

    def __init__(self, module: str, parameters: dict[str, object] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "parameters.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters or {"threads": 0}}}))
        command = [sys.executable, "-m", f"nodes.{module}", "--ros-args", "--params-file", file]
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until the log contains `text`."""
        deadline_s = time.monotonic() + timeout_s
        while text not in Path(self._log.name).read_text():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no '{text}' in: {Path(self._log.name).read_text()}")
            time.sleep(0.05)

    def cpu_share(self, seconds: float) -> float:
        """The share of one core that the process uses during `seconds`."""
        process = psutil.Process(self._process.pid)
        before, started = process.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        return used_s / (time.monotonic() - started)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()


class Watcher:
    """Subscribes to detections in this process."""

    def __init__(self, topic: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("watcher", context=self._context)
        self._ages_ms: list[float] = []
        qos = QoSProfile(depth=1)
        self._node.create_subscription(Detection2DArray, topic, self._on_message, qos)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def ages_ms(self, warm_up_s: float, seconds: float) -> list[float]:
        """The ages in milliseconds of the messages of `seconds`, after a warm-up."""
        deadline_s = time.monotonic() + 30.0
        while not self._ages_ms:
            if time.monotonic() > deadline_s:
                raise TimeoutError("no detections came within 30 s")
            time.sleep(0.05)
        time.sleep(warm_up_s)
        self._ages_ms.clear()
        time.sleep(seconds)
        return list(self._ages_ms)

    def _on_message(self, message: Detection2DArray) -> None:
        self._ages_ms.append((time.time_ns() - stamp_ns(message.header)) / 1e6)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *reason: object) -> None:
        self._context.try_shutdown()
        self._thread.join(END_S)


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
    parser = group_parser("benchmarks.ros", __doc__, "bench-ros", GROUPS)
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of the age comparison")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100))
    os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp())
    make_room_for_images()
    figures = run_groups(GROUPS, arguments)
    sys.exit(any(figure.reached is False for figure in figures))


if __name__ == "__main__":
    main()
