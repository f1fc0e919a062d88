"""Failures of cameras, with a capture that simulates the driver.

Real Video4Linux, with the kernel's virtual camera, is in `test_vivid.py`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture import camera as cameras
from pipeline.capture import live
from pipeline.capture.camera import holders, lasting_path
from pipeline.capture.live import FrozenCheck
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from .conftest import Clock

NOISE = np.random.default_rng(0)


def noisy() -> np.ndarray:
    return NOISE.integers(0, 256, (48, 64, 3), np.uint8)


class Driver:
    """Stands in for `cv2.VideoCapture`: gives the images it has, None for one without pixels."""

    def __init__(self, images: Iterator[np.ndarray | None], *, is_open: bool = True) -> None:
        self._images = images
        self._is_open = is_open
        self._image: np.ndarray | None = None
        self.is_released = False
        self.waits_s: list[str | None] = []
        """What OpenCV would find in the environment whenever it waits for an image."""

    def isOpened(self) -> bool:
        return self._is_open

    def grab(self) -> bool:
        self.waits_s.append(os.environ.get("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"))
        try:
            self._image = next(self._images)
        except StopIteration:
            return False
        return True

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return True, self._image

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0}.get(key, 0.0)

    def set(self, key: int, number: float) -> bool:
        return True

    def release(self) -> None:
        self.is_released = True


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Replaces the camera by drivers: each opening returns the next one, or raises it."""
    monkeypatch.setattr(live, "FROZEN_LIMIT_S", 0.3)

    def put(*drivers: Driver | Exception) -> list[object]:
        opened: list[object] = []
        waiting = list(drivers)

        def connect(path: str) -> Driver:
            driver = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            opened.append(driver)
            if isinstance(driver, Exception):
                raise driver
            return driver

        monkeypatch.setattr(cameras, "connect_device", connect)
        return opened

    return put


def endless(image: Callable[[], np.ndarray | None]) -> Iterator[np.ndarray | None]:
    return (image() for _ in itertools.count())


def images(count: int) -> Iterator[np.ndarray | None]:
    return (noisy() for _ in range(count))


def test_camera_that_is_unplugged_and_plugged_in_again_continues(
    plug: Callable[..., list[object]],
) -> None:
    first = Driver(images(11))  # opening takes one
    gone = SourceError("camera /dev/video7: No such file or directory")
    opened = plug(first, gone, gone, Driver(endless(noisy)))
    with open_source("7") as source:
        seqs = []
        for _ in range(20):
            frame = source.read()
            assert frame is not None
            assert frame.camera == "video7"
            seqs.append(frame.seq)
    assert seqs[:10] == list(range(10))
    assert seqs[10] > 10
    assert len(opened) == 4
    assert first.is_released


def test_camera_that_is_unplugged_is_an_error_without_reconnecting(
    plug: Callable[..., list[object]],
) -> None:
    plug(Driver(images(4)))
    with open_source("/dev/video7777", reconnect=False) as source:
        for _ in range(3):
            source.read()
        with pytest.raises(CaptureError, match="/dev/video7777: it was unplugged; after 3 frames"):
            source.read()


def test_busy_camera_is_bad_input_at_first_and_retried_later(
    plug: Callable[..., list[object]],
) -> None:
    busy = Driver(images(0), is_open=False)
    plug(busy)
    with pytest.raises(SourceError, match="cannot be opened; it is busy"):
        open_source("7")
    plug(Driver(images(2)), busy, Driver(endless(noisy)))
    with open_source("7") as source:
        assert [frame.seq for frame in (source.read(), source.read()) if frame] == [0, 2]


def test_image_that_comes_as_one_row_of_bytes_is_reshaped(
    plug: Callable[..., list[object]],
) -> None:
    image = noisy()  # as OpenCV 4.11 gives the format BGR3
    plug(Driver(iter([image.reshape(1, -1)] * 2)))
    with open_source("7") as source:
        frame = source.read()
    assert frame is not None
    np.testing.assert_array_equal(frame.image, image)


class Silence(Driver):
    """A driver that sends nothing for as long as OpenCV waits at a time."""

    def __init__(self, images: Iterator[np.ndarray | None], clock: Clock) -> None:
        super().__init__(images)
        self._clock = clock

    def grab(self) -> bool:
        is_grabbed = super().grab()
        if not is_grabbed:
            self._clock.now_s += cameras._SELECT_S
        return is_grabbed


def test_silent_camera_fails_after_exactly_the_timeout(
    plug: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(cameras, "time", clock)
    silence = Silence(images(2), clock)
    plug(silence)
    with open_source("7", read_timeout_s=5.0, reconnect=False) as source:
        assert source.read() is not None
        with pytest.raises(CaptureError, match=r"/dev/video7: no frame came for 5\.0 s; after 1"):
            source.read()
    assert len(silence.waits_s) == 2 + 5
    plug(Silence(images(0), clock))
    with pytest.raises(SourceError, match=r"/dev/video7: opened, but no frame came for 2\.0 s"):
        open_source("7", open_timeout_s=2.0)


def test_opencv_waits_one_second_per_grab(
    plug: Callable[..., list[object]],
) -> None:
    driver = Driver(images(3))
    plug(driver)
    with open_source("7") as source:
        source.read()
    assert driver.waits_s == ["1", None]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere drivers do not wait")
def test_driver_that_fails_is_an_error_at_once(plug: Callable[..., list[object]]) -> None:
    broken = Driver(images(0))
    plug(broken)
    with pytest.raises(SourceError, match="/dev/null: opened, but its driver failed; "):
        open_source("/dev/null")
    assert len(broken.waits_s) == 1
    assert broken.is_released
    plug(Driver(images(3)))
    with open_source("/dev/null", reconnect=False) as source:
        source.read(), source.read()
        with pytest.raises(CaptureError, match="/dev/null: its driver failed; after 2 frames"):
            source.read()


def test_format_that_the_camera_does_not_deliver_is_logged(
    plug: Callable[..., list[object]], caplog: pytest.LogCaptureFixture
) -> None:
    plug(Driver(endless(noisy)))
    with open_source("7", fourcc="YUYV"):
        pass
    assert "video7 was asked for anyxany at any fps in YUYV but delivers 64x48" in caplog.text


def test_camera_that_repeats_its_last_image_is_reopened(
    plug: Callable[..., list[object]], caplog: pytest.LogCaptureFixture
) -> None:
    last = noisy()
    opened = plug(Driver(itertools.chain(images(5), endless(last.copy))), Driver(endless(noisy)))
    with open_source("7") as source:
        while source.counts()["reconnects"] < 1:
            assert source.read() is not None
    assert len(opened) == 2
    assert "delivered the same image for" in caplog.text


def test_image_that_is_the_same_after_reopening_is_accepted(
    plug: Callable[..., list[object]],
) -> None:
    slide = noisy()
    opened = plug(Driver(endless(slide.copy)), Driver(endless(slide.copy)))
    with open_source("7") as source:
        while source.counts()["reconnects"] < 1:
            assert source.read() is not None
        again = time.monotonic()
        while time.monotonic() < again + 1.0:  # three times the limit
            assert source.read() is not None
    assert len(opened) == 2


@pytest.mark.parametrize("nothing", [None, np.empty((0, 0, 3), np.uint8)], ids=["none", "empty"])
def test_grabs_without_an_image_are_tolerated_until_the_read_timeout(
    plug: Callable[..., list[object]],
    nothing: np.ndarray | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("pipeline.capture.live.time", clock)

    def takes_time() -> np.ndarray | None:
        clock.now_s += 0.125
        return nothing

    opened = plug(Driver(itertools.chain(images(5), endless(takes_time))), Driver(endless(noisy)))
    with open_source("7", read_timeout_s=0.5) as source:
        failed = 0
        while source.counts()["reconnects"] < 1:
            try:
                source.read()
            except FrameError:
                failed += 1
    assert failed == 4
    assert len(opened) == 2


def test_camera_whose_driver_hangs_is_abandoned(
    plug: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HANG_GRACE_S", 0.3)

    def hang() -> np.ndarray:
        threading.Event().wait()
        return noisy()

    plug(Driver(itertools.chain(images(3), endless(hang))))
    with (
        open_source("7", read_timeout_s=0.2, reconnect=False) as source,
        pytest.raises(CaptureError, match=r"camera /dev/video7: reading a frame timed out"),
    ):
        read_to_the_end(source)


def read_to_the_end(source: Source[Frame]) -> None:
    while source.read() is not None:
        pass


def frame_of(image: np.ndarray) -> Frame:
    return Frame(image, 0, 0, "cam")


def test_equal_images_are_a_fault_only_after_the_limit_and_only_once() -> None:
    now = [0.0]
    check = FrozenCheck(5.0, clock_s=lambda: now[0])
    still, other = noisy(), noisy()
    for now[0] in (0.0, 2.5, 5.0):
        check(frame_of(still))
    now[0] = 5.1
    with pytest.raises(CaptureError, match=r"cam: delivered the same image for 5\.1 s"):
        check(frame_of(still))
    for now[0] in (6.0, 60.0):
        check(frame_of(still))
    check(frame_of(other))
    now[0] = 66.0
    with pytest.raises(CaptureError, match=r"for 6\.0 s"):
        check(frame_of(other))


def test_camera_is_found_by_its_usb_port(tmp_path: Path) -> None:
    links, device = tmp_path / "by-path", tmp_path / "video7"
    device.touch()
    links.mkdir()
    assert lasting_path(str(device), links) == str(device)
    (links / "pci-0000:00:14.0-usb-0:2:1.0-video-index0").symlink_to("../video7")
    (links / "pci-0000:00:14.0-usb-0:1:1.0-video-index0").symlink_to("../video6")
    assert lasting_path(str(device), links).endswith("usb-0:2:1.0-video-index0")
    assert lasting_path(str(device), tmp_path / "nowhere") == str(device)


def test_processes_that_hold_a_device_are_named(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    with device.open() as file:
        other = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        assert holders(str(device)) == [f"sleep (process {other.pid})"]
    finally:
        other.kill()
        other.wait()
    assert holders(str(device)) == []
