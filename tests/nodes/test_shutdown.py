"""Every node ends within 2 s of SIGINT or SIGTERM, with 0 and without a traceback."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from nodes.image_messages import image_message

NODES = ("camera_node", "detector_node", "vision_node", "classifier_node")
WITHIN_S = 2.0  # times `crowding`, where others use the processors


@pytest.fixture
def images_at_30_hz(observer):
    """Images and detections of noise, 30 a second, for as long as the test lasts."""
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    images = observer.node.create_publisher(Image, "image_raw", 1)
    arrays = observer.node.create_publisher(Detection2DArray, "detections", 1)
    over = threading.Event()

    def publish() -> None:
        while not over.wait(1 / 30):
            header = Header(stamp=observer.node.get_clock().now().to_msg(), frame_id="front")
            images.publish(image_message(noise, header))
            arrays.publish(Detection2DArray(header=header))

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_every_node_ends_in_time_while_images_come(
    start_node, observer, images_at_30_hz, number, crowding
):
    outputs = {
        "camera_node": (Image, "scene"),
        "detector_node": (Detection2DArray, "found"),
        "vision_node": (Detection2DArray, "all"),
        "classifier_node": (Detection2DArray, "classified_detections"),
    }
    inboxes = {name: observer.subscribe(*output) for name, output in outputs.items()}
    scene = {"source": "scene:?size=640x480&fps=30"}
    nodes = {
        "camera_node": start_node("camera_node", scene, "-r", "image_raw:=scene"),
        "detector_node": start_node("detector_node", {}, "-r", "detections:=found"),
        "vision_node": start_node("vision_node", {}, "-r", "detections:=all"),
        "classifier_node": start_node("classifier_node"),
    }
    for name in NODES:
        inboxes[name].wait(timeout_s=60)
    for name in NODES:
        sent = time.monotonic()
        nodes[name].send(number)
        time.sleep(0.02)  # and once more into its end, as after Ctrl-C from a launch file
        assert nodes[name].stop(number) == 0, name
        assert time.monotonic() - sent < WITHIN_S * crowding(), name
        assert "Traceback" not in nodes[name].log
