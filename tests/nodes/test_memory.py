"""Memory does not grow in some seconds, or in ten minutes with `make soak-ros`."""

from __future__ import annotations

import os
import statistics
import sys
import time

import psutil
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

SECONDS = float(os.environ.get("VISION_SOAK_S", "10"))
SETTLED_AFTER = 60  # results, after which buffers have their size and models are warm
GROWTH_MB = 12.0  # an allocator's variation; a leak of one image per second exceeds it in 10 s
PERIOD_S = 0.2
MIN_SAMPLES = 15


def test_memory_does_not_grow_at_30_images_a_second(start_node, observer, wait_until):
    found = observer.subscribe(Detection2DArray, "classified_detections", depth=1)
    images = observer.subscribe(Image, "detections/image", depth=1)
    nodes = {
        "camera_node": start_node("camera_node", {"source": "scene:?size=640x480&fps=30"}),
        "detector_node": start_node("detector_node"),
        "classifier_node": start_node("classifier_node"),
    }
    found.wait(SETTLED_AFTER, timeout_s=120)
    processes = {name: psutil.Process(node.pid) for name, node in nodes.items()}

    def growth() -> dict[str, float]:
        """The growth of each process in MB, from the first third of the time to the last."""
        sizes: dict[str, list[float]] = {name: [] for name in nodes}
        end_s = time.monotonic() + SECONDS
        while time.monotonic() < end_s or len(sizes["camera_node"]) < MIN_SAMPLES:
            for name, process in processes.items():
                sizes[name].append(process.memory_info().rss / 2**20)
            found.clear()
            images.clear()
            found.wait(timeout_s=60)
            wait_until(_after(PERIOD_S), "the next sample")
        return {name: _grown(name, values) for name, values in sizes.items()}

    # Messages that wait for a delayed node are kept, up to a bound: memory may grow once, but not
    # three times in a row.
    grown = [growth()]
    while len(grown) < 3 and max(grown[-1].values()) >= GROWTH_MB:
        grown.append(growth())
    assert max(grown[-1].values()) < GROWTH_MB, grown


def _grown(name: str, values: list[float]) -> float:
    third = len(values) // 3
    before, after = statistics.median(values[:third]), statistics.median(values[-third:])
    sys.stdout.write(f"{name}: {before:.1f} MB, after {SECONDS:g} s {after:.1f} MB\n")
    return after - before


def _after(seconds: float):
    due_s = time.monotonic() + seconds
    return lambda: time.monotonic() >= due_s
