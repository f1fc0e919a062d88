"""The camera node: frames of any source as topics, with the calibration, and back after a crash."""

from __future__ import annotations

import signal

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray

from nodes.images.frame_sources import CaptureSource, Pace
from nodes.messages.camera_info import read_camera_info
from nodes.messages.diagnostics import Activity
from pipeline.capture import open_source
from pipeline.errors import ConfigError

SCENE = "scene:?size=320x240&fps=20"
CALIBRATION = {
    "image_width": 320,
    "image_height": 240,
    "camera_name": "front",
    "distortion_model": "plumb_bob",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [300, 0, 160, 0, 301, 120, 0, 0, 1]},
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, -0.2, 0.001, 0.002, 0]},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    "projection_matrix": {
        "rows": 3,
        "cols": 4,
        "data": [300, 0, 160, 0, 0, 301, 120, 0, 0, 0, 1, 0],
    },
}


def stamp(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_pictures_come_as_they_are_raw_and_as_jpeg_with_their_calibration(
    start_node, observer, wait_until, tmp_path
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures = [np.full((240, 320, 3), 40 * i + 5, np.uint8) for i in range(4)]
    for i, picture in enumerate(pictures):
        cv2.rectangle(picture, (20 * i, 30), (20 * i + 60, 90), (10, 200, 90), -1)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    calibration = tmp_path / "front.yaml"
    calibration.write_text(yaml.safe_dump(CALIBRATION))
    images = observer.subscribe(Image, "image_raw")
    jpegs = observer.subscribe(CompressedImage, "image_raw/compressed")
    infos = observer.subscribe(CameraInfo, "camera_info")
    node = start_node(
        "camera_node",
        {
            "source": str(folder),
            "fps": 10.0,
            "loop": True,
            "frame_id": "front_optical",
            "camera_info_url": calibration.as_uri(),
        },
    )
    for image in images.wait(5):
        assert (image.header.frame_id, image.encoding, image.step) == ("front_optical", "bgr8", 960)
        pixels = np.asarray(image.data, np.uint8).reshape(240, 320, 3)
        assert any((pixels == picture).all() for picture in pictures)
    stamps = [stamp(image) for image in images.messages]
    assert stamps == sorted(set(stamps)), "each frame once, and in order"

    def whole() -> list:
        """A picture that came in every form; who subscribes is met in any order."""
        forms = [{stamp(m): m for m in inbox.messages} for inbox in (images, jpegs, infos)]
        common = set.intersection(*map(set, forms))
        return [form[min(common)] for form in forms] if common else []

    image, jpeg, info = wait_until(whole, "a picture in every form")
    decoded = cv2.imdecode(np.asarray(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    original = np.asarray(image.data, np.uint8).reshape(240, 320, 3)
    assert np.abs(decoded.astype(int) - original).mean() < 3
    assert info.header == image.header
    assert (info.width, info.height, info.distortion_model) == (320, 240, "plumb_bob")
    assert list(info.k) == CALIBRATION["camera_matrix"]["data"]
    assert list(info.d) == CALIBRATION["distortion_coefficients"]["data"]
    assert list(info.r) == CALIBRATION["rectification_matrix"]["data"]
    assert list(info.p) == CALIBRATION["projection_matrix"]["data"]
    assert "ignored" not in node.log, "the rate that files are played at"


def test_the_scene_comes_pixel_for_pixel_and_pauses_when_told(start_node, observer):
    images = observer.subscribe(Image, "image_raw")
    node = start_node("camera_node", {"source": "scene:?size=320x240&fps=0&seed=3", "fps": 20.0})
    (first,) = images.wait()
    expected, got = open_source("scene:?size=320x240&fps=0&seed=3"), bytes(first.data)
    # Which of them is met first, that is a matter of how soon the two find each other.
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
        pytest.param({"source": "/nowhere.mp4"}, "/nowhere.mp4", id="no_such_file"),
        pytest.param(
            {"source": SCENE, "camera_info_url": "package://nobody/front.yaml"},
            "no package 'nobody'",
            id="calibration_of_no_package",
        ),
        pytest.param(
            {"source": SCENE, "camera_info_url": __file__}, "is no", id="no_calibration_at_all"
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_and_the_node_lives_on(
    start_node, parameters, reason
):
    node = start_node("camera_node", parameters)
    line = node.wait_for_log(reason)
    assert "ERROR" in line
    assert node.stop() == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_width": True},
        {"distortion_model": ["plumb_bob"]},
        {"camera_matrix": {"data": "123456789"}},
        {"projection_matrix": {"data": [1.0] * 11}},
        {"distortion_coefficients": {"data": [float("nan")] * 5}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_calibration_is_refused_by_the_name_of_its_entry(tmp_path, wrong):
    file = tmp_path / "front.yaml"
    file.write_text(yaml.safe_dump({**CALIBRATION, **wrong}))
    with pytest.raises(ConfigError, match=f"front.yaml: {next(iter(wrong))} must"):
        read_camera_info(str(file))


def test_a_calibration_in_an_unknown_home_is_refused():
    with pytest.raises(ConfigError, match="cannot read"):
        read_camera_info("~nobody-has-this-name/front.yaml")


def test_no_picture_of_a_file_is_lost_where_a_wait_ends_too_early(tmp_path):
    class Hasty(Pace):
        def wait_s(self, camera: str) -> float:
            return super().wait_s(camera) / 2

    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    activity = Activity("images")
    source = CaptureSource(open_source(str(tmp_path)), lambda _: activity, Hasty(100.0))
    assert [frame.seq for frame in iter(source.read, None)] == [0, 1, 2, 3]
    source.close()


def test_the_password_of_a_stream_is_shown_to_nobody(start_node, observer, namespace):
    statuses = observer.subscribe(DiagnosticArray, "/diagnostics")
    source = "rtsp://somebody:secret@127.0.0.1:1/video"
    node = start_node("camera_node", {"source": source, "retry": True})
    node.wait_for_log("rtsp://127.0.0.1:1/video: nothing answers")
    name = f"{namespace.lstrip('/')}/camera_node: image_raw"
    message = statuses.wait_for(lambda m: m.status[0].name == name and len(m.status[0].values) > 6)
    values = {value.key: value.value for value in message.status[0].values}
    assert values["source"] == "rtsp://127.0.0.1:1/video"
    assert node.stop() == 0
    assert "secret" not in node.log


def test_a_source_that_is_not_there_yet_is_waited_for(start_node, observer, tmp_path):
    picture = tmp_path / "late.png"
    images = observer.subscribe(Image, "image_raw")
    node = start_node("camera_node", {"source": str(picture), "retry": True, "loop": True})
    node.wait_for_log("trying again")
    hidden = tmp_path / "hidden.png"
    cv2.imwrite(str(hidden), np.zeros((48, 64, 3), np.uint8))
    hidden.rename(picture)
    assert images.wait()[0].width == 64


def test_the_detector_goes_on_when_the_camera_is_killed_and_comes_back(start_node, observer):
    detections = observer.subscribe(Detection2DArray, "detections")
    detector = start_node("detector_node")
    camera = start_node("camera_node", {"source": SCENE})
    detections.wait(3)
    camera.kill()
    assert camera.wait() == -signal.SIGKILL
    detections.clear()
    start_node("camera_node", {"source": SCENE, "frame_id": "again"})
    detections.wait_for(lambda message: message.header.frame_id == "again")
    assert detector.stop() == 0
    assert "Traceback" not in detector.log
