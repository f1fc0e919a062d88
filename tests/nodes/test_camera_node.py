"""The camera node: any source as topics, with its calibration, and after a crash."""

from __future__ import annotations

import signal

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from sensor_msgs.srv import SetCameraInfo
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray

from nodes.messages.camera_info import read_camera_info
from pipeline.sources import open_source

SCENE = "scene:?size=320x240&fps=20"
CALIBRATION = {
    "image_width": 320,
    "image_height": 240,
    "camera_matrix": {"data": [*range(1, 10)]},
    "distortion_coefficients": {"data": [0.1, -0.2, 0.001, 0.002, 0]},
    "rectification_matrix": {"data": [*range(9)]},
    "projection_matrix": {"data": [*range(12)]},
}


def stamp(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


@pytest.fixture
def originals(tmp_path):
    """Four images, which are also in the folder `images`."""
    folder = tmp_path / "images"
    folder.mkdir()
    originals = [np.full((240, 320, 3), 40 * i + 5, np.uint8) for i in range(4)]
    for i, original in enumerate(originals):
        cv2.rectangle(original, (20 * i, 30), (20 * i + 60, 90), (10, 200, 90), -1)
        cv2.imwrite(str(folder / f"{i}.png"), original)
    return originals


def test_images_are_published_raw_and_as_jpeg_with_their_calibration(
    start_node, observer, wait_until, tmp_path, originals
):
    calibration = tmp_path / "front.yaml"
    calibration.write_text(yaml.safe_dump(CALIBRATION))
    images = observer.subscribe(Image, "image_raw")
    jpegs = observer.subscribe(CompressedImage, "image_raw/compressed")
    infos = observer.subscribe(CameraInfo, "camera_info")
    node = start_node(
        "camera_node",
        {
            "source": str(tmp_path / "images"),
            "fps": 10.0,
            "loop": True,
            "frame_id": "front_optical",
            "camera_info_url": calibration.as_uri(),
        },
    )
    for image in images.wait(5):
        assert (image.header.frame_id, image.encoding, image.step) == ("front_optical", "bgr8", 960)
        pixels = np.asarray(image.data, np.uint8).reshape(240, 320, 3)
        assert any((pixels == original).all() for original in originals)
    stamps = [stamp(image) for image in images.messages]
    assert stamps == sorted(set(stamps)), "each frame once, and in order"

    def whole() -> list:
        """An image that came in every form; subscriptions connect in any order."""
        forms = [{stamp(m): m for m in inbox.messages} for inbox in (images, jpegs, infos)]
        common = set.intersection(*map(set, forms))
        return [form[min(common)] for form in forms] if common else []

    image, jpeg, info = wait_until(whole, "an image in every form")
    decoded = cv2.imdecode(np.asarray(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    original = np.asarray(image.data, np.uint8).reshape(240, 320, 3)
    assert np.abs(decoded.astype(int) - original).mean() < 3
    expected = read_camera_info(str(calibration))
    expected.header = image.header
    assert info == expected
    assert "ignored" not in node.log, "files accept a rate"


def test_scene_is_published_pixel_for_pixel_and_can_pause(start_node, observer):
    images = observer.subscribe(Image, "image_raw")
    node = start_node("camera_node", {"source": "scene:?size=320x240&fps=0&seed=3", "fps": 20.0})
    (first,) = images.wait()
    expected, got = open_source("scene:?size=320x240&fps=0&seed=3"), bytes(first.data)
    # The first one received depends on when the subscription connects.
    assert any(expected.read().image.tobytes() == got for _ in range(1200))
    assert first.header.frame_id == "scene"

    answer = observer.call(SetBool, "camera_node/enable", SetBool.Request(data=False))
    assert answer.success
    node.wait_for_log("paused")
    images.clear()
    observer.call(SetBool, "camera_node/enable", SetBool.Request(data=True))
    images.wait(3)
    assert node.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        pytest.param({"source": ""}, "source is empty", id="no_source"),
        pytest.param({"source": "/nowhere.mp4"}, "/nowhere.mp4': no such file", id="no_such_file"),
        pytest.param(
            {"source": SCENE, "camera_info_url": "package://nobody/front.yaml"},
            "no package 'nobody'",
            id="calibration_of_no_package",
        ),
        pytest.param(
            {"source": SCENE, "camera_info_url": __file__}, "not valid", id="no_calibration_at_all"
        ),
    ],
)
def test_unusable_parameter_is_logged_on_one_line_and_the_node_keeps_running(
    start_node, parameters, reason
):
    node = start_node("camera_node", parameters)
    line = node.wait_for_log(reason)
    assert "ERROR" in line
    assert node.stop() == 0
    assert "Traceback" not in node.log


def test_password_of_a_stream_is_never_shown(start_node, observer, namespace):
    statuses = observer.subscribe(DiagnosticArray, "/diagnostics")
    source = "rtsp://somebody:secret@127.0.0.1:1/video"
    node = start_node("camera_node", {"source": source, "retry": True})
    node.wait_for_log("rtsp://127.0.0.1:1: nothing answers")
    name = f"{namespace.lstrip('/')}/camera_node: image_raw"
    message = statuses.wait_for(lambda m: m.status[0].name == name and len(m.status[0].values) > 6)
    values = {value.key: value.value for value in message.status[0].values}
    assert values["source"] == "rtsp://127.0.0.1:1"
    assert node.stop() == 0
    assert "secret" not in node.log


def test_uncalibrated_camera_publishes_its_size_and_takes_a_calibration(
    start_node, observer, tmp_path
):
    infos = observer.subscribe(CameraInfo, "camera_info")
    start_node("camera_node", {"source": "scene:?size=320x240"})
    info = infos.wait()[0]
    assert (info.width, info.height, info.k[0]) == (320, 240, 0.0)
    calibrated = CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5)
    calibrated.k[0] = calibrated.k[4] = 300.0
    request = SetCameraInfo.Request(camera_info=calibrated)
    answer = observer.call(SetCameraInfo, "set_camera_info", request)
    assert answer.success
    assert "not stored" in answer.status_message
    assert infos.wait_for(lambda message: message.k[0] == 300.0).header.frame_id


def test_stream_that_is_not_up_yet_is_tried_again_by_default(start_node):
    node = start_node("camera_node", {"source": "rtsp://127.0.0.1:1/video"})
    node.wait_for_log("nothing answers.*trying again")
    assert node.count("inactive") == 0
    assert node.stop() == 0


def test_retry_waits_for_a_missing_source(start_node, observer, tmp_path):
    late = tmp_path / "late.png"
    images = observer.subscribe(Image, "image_raw")
    node = start_node("camera_node", {"source": str(late), "retry": True, "loop": True})
    node.wait_for_log("trying again")
    hidden = tmp_path / "hidden.png"
    cv2.imwrite(str(hidden), np.zeros((48, 64, 3), np.uint8))
    hidden.rename(late)
    assert images.wait()[0].width == 64


def test_detector_continues_after_the_camera_is_killed_and_restarted(start_node, observer):
    detections = observer.subscribe(Detection2DArray, "detections")
    detector = start_node("detector_node")
    camera = start_node("camera_node", {"source": SCENE})
    detections.wait(3)
    assert camera.stop(signal.SIGKILL) == -signal.SIGKILL
    detections.clear()
    start_node("camera_node", {"source": SCENE, "frame_id": "again"})
    detections.wait_for(lambda message: message.header.frame_id == "again")
    assert detector.stop() == 0
    assert "Traceback" not in detector.log
