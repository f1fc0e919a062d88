"""Records images and their detections on the machine that it runs on.

recorder.py NAMESPACE COUNT FILE.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection2DArray

RECEIVED = Path("/sys/class/net/eth0/statistics/rx_bytes")


def main() -> None:
    """Record until `COUNT` images have detections, and one of them has an object."""
    namespace, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    rclpy.init(args=[])
    node = rclpy.create_node("recorder", namespace=namespace)
    jpegs: dict[tuple[int, int], CompressedImage] = {}
    arrays: dict[tuple[int, int], Detection2DArray] = {}
    for kind, topic, kept in (
        (CompressedImage, "image_raw/compressed", jpegs),
        (Detection2DArray, "detections", arrays),
    ):
        node.create_subscription(kind, topic, _keeper(kept), QoSProfile(depth=50))
    while not _is_enough(jpegs.keys() & arrays.keys(), arrays, count):
        rclpy.spin_once(node)
        sys.stdout.write(f"{len(jpegs)} images, {len(arrays)} of detections\n")
    content: dict[str, object] = {"received_bytes": int(RECEIVED.read_text())}
    for i, stamp in enumerate(sorted(jpegs.keys() & arrays.keys())):
        content[f"jpeg{i}"] = np.asarray(jpegs[stamp].data, np.uint8)
        boxes = [d.bbox for d in arrays[stamp].detections]
        content[f"boxes{i}"] = np.array(
            [[b.center.position.x, b.center.position.y, b.size_x, b.size_y] for b in boxes]
        )
        names = [d.results[0].hypothesis.class_id for d in arrays[stamp].detections]
        content[f"names{i}"] = np.array(names, str)
    np.savez(out, **content)
    sys.stdout.write("recorded\n")
    rclpy.shutdown()


def _is_enough(stamps: set, arrays: dict, count: int) -> bool:
    return len(stamps) >= count and any(arrays[stamp].detections for stamp in stamps)


def _keeper(kept: dict):
    def keep(message) -> None:
        kept[message.header.stamp.sec, message.header.stamp.nanosec] = message

    return keep


if __name__ == "__main__":
    main()
