"""One process, three processes and two machines give the same detections."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection2DArray

from nodes.images.image_messages import image_from
from nodes.messages.detection_messages import detection_array
from pipeline.inference.detector import Detector

SCENE = "scene:?size=640x480&fps=0"
SCORE = {"score_threshold": 0.1}
FRAMES = 8
RECORDER = Path(__file__).resolve().parents[1] / "ros" / "recorder.py"


def by_stamp(messages: list) -> dict[tuple[int, int], object]:
    return {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in messages}


def test_one_process_and_three_give_the_same_detections(start_node, observer, wait_until):
    composed = observer.subscribe(Detection2DArray, "composed")
    apart = observer.subscribe(Detection2DArray, "classified_detections")
    start_node("vision_node", SCORE, "-r", "detections:=composed")
    start_node("detector_node", SCORE)
    start_node("classifier_node")
    start_node("camera_node", {"source": SCENE, "fps": 3.0})

    def common() -> list:
        both = by_stamp(composed.messages), by_stamp(apart.messages)
        return [(both[0][stamp], both[1][stamp]) for stamp in both[0].keys() & both[1].keys()]

    def enough() -> list:
        pairs = common()
        has_objects = any(together.detections for together, _ in pairs)
        return pairs if len(pairs) >= FRAMES and has_objects else []

    pairs = wait_until(enough, "images seen by both, with objects", 120)
    for together, separate in pairs:
        assert together == separate


@pytest.fixture
def two_machines(wait_until):
    """The names of two network namespaces that share only a virtual cable."""
    ip = shutil.which("ip")
    if ip is None:
        pytest.skip("needs the command ip (iproute2) to create network namespaces")
    names = [f"vision-{os.getpid()}-{end}" for end in "ab"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ip, *words], capture_output=True, text=True, timeout=10, check=False)

    try:
        for name in names:
            _checked(run("netns", "add", name), "network namespaces cannot be created here")
        _checked(
            run(
                *("link", "add", "eth0", "netns", names[0], "type", "veth"),
                *("peer", "name", "eth0", "netns", names[1]),
            ),
            "no veth pair can be created here",
        )
        for number, name in enumerate(names, 1):
            run("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                run("-n", name, "link", "set", device, "up")
        # Until the kernel has set the link up, nodes find no network.
        for name in names:
            wait_until(functools.partial(_is_up, run, name), "the cable")
        yield names
    finally:
        for name in names:
            run("netns", "delete", name)


def _checked(outcome: subprocess.CompletedProcess[str], otherwise: str) -> None:
    if outcome.returncode:
        pytest.skip(f"{otherwise}: {outcome.stderr.strip()}")


def _is_up(run, name: str) -> bool:
    return "state UP" in run("-n", name, "link", "show", "eth0").stdout


def test_two_machines_give_the_detections_of_one_process(
    two_machines, start_process, namespace, tmp_path
):
    """Compressed images cross the cable; the engine gives the expected detections."""
    here, there = two_machines
    # Without shared memory, which the two namespaces would still share.
    network = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
    }

    def start(machine: str, *command: str):
        words = ("ip", "netns", "exec", machine, sys.executable, *command)
        return start_process(*words, **network)

    def node(machine: str, module: str, **parameters: object):
        given = [f"{name}:={json.dumps(value)}" for name, value in parameters.items()]
        arguments = [word for text in given for word in ("-p", text)]
        start(
            *(machine, "-m", f"nodes.{module}", "--ros-args", "-r", f"__ns:={namespace}"),
            *arguments,
        )

    out = tmp_path / "recorded.npz"
    recorder = start(there, str(RECORDER), namespace, str(FRAMES), str(out))
    node(there, "detector_node", image_transport="compressed", **SCORE)
    node(here, "camera_node", source=SCENE, fps=3.0)
    recorder.wait_for_log("recorded", timeout_s=120)
    assert recorder.wait() == 0
    with np.load(out) as recorded:
        check_detections(recorded)


def check_detections(recorded):
    """The recorded detections are those of the engine, and the images crossed the cable."""
    detect = Detector(**SCORE)
    found = 0
    count = sum(name.startswith("jpeg") for name in recorded.files)
    assert count >= FRAMES
    assert int(recorded["received_bytes"]) > sum(len(recorded[f"jpeg{i}"]) for i in range(count))
    for i in range(count):
        jpeg = CompressedImage(format="jpeg", data=recorded[f"jpeg{i}"].tobytes())
        expected = detection_array(CompressedImage().header, detect(image_from(jpeg)))
        boxes = [
            [d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y]
            for d in expected.detections
        ]
        names = [d.results[0].hypothesis.class_id for d in expected.detections]
        assert recorded[f"names{i}"].tolist() == names
        np.testing.assert_allclose(
            recorded[f"boxes{i}"].reshape(-1, 4), np.array(boxes).reshape(-1, 4), atol=0.01
        )
        found += len(names)
    assert found
