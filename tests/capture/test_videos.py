"""Video files: real ones, generated ones, and files of other kinds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture.camera import Camera
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.sources import open_source
from pipeline.types import Frame

from ..footage import Footage
from .conftest import FRAMES, SIZE, number_of


def test_every_frame_of_a_file_comes_once_and_then_none(video: Path) -> None:
    with open_source(str(video)) as source:
        assert (source.live, source.frames, source.fps) == (False, FRAMES, 20.0)
        assert source.camera == "Kuche_1"
        frames: list[Frame] = []
        while (frame := source.read()) is not None:
            frames.append(frame)
        assert source.read() is None
    assert [frame.seq for frame in frames] == list(range(FRAMES))
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    assert {frame.image.shape for frame in frames} == {(SIZE[1], SIZE[0], 3)}
    assert not frames[0].image.flags.writeable


def test_frames_keep_their_pixels_while_later_ones_are_read(video: Path) -> None:
    with open_source(str(video)) as source:
        first = source.read()
        assert first is not None
        before = first.image.copy()
        while source.read() is not None:
            pass
    np.testing.assert_array_equal(first.image, before)


def test_frames_have_the_pixels_that_opencv_gives(video_of_objects: Footage) -> None:
    path, frames = str(video_of_objects.path), video_of_objects.frames
    reference = cv2.VideoCapture(path)
    count = 0
    with open_source(path) as source:
        assert source.frames == frames
        assert source.fps == pytest.approx(video_of_objects.fps, abs=0.01)
        while (frame := source.read()) is not None:
            if count % 100 == 0:
                assert frame.image.shape == (360, 640, 3)
                np.testing.assert_array_equal(frame.image, reference.read()[1])
            else:
                reference.grab()
            count += 1
    assert count == frames


def test_closing_twice_and_reading_afterwards_is_the_end(video: Path) -> None:
    source = open_source(str(video))
    source.close()
    source.close()
    assert source.read() is None


def damage(original: Path, copy: Path, length: int) -> Path:
    data = bytearray(original.read_bytes())
    start = int(0.3 * len(data))
    data[start : start + length] = bytes((7 * i) % 256 for i in range(length))
    copy.write_bytes(data)
    return copy


def read_all(path: Path) -> tuple[list[int], list[str]]:
    """The numbers of the frames, and the messages of the lost ones."""
    seen, lost = [], []
    with open_source(str(path)) as source:
        while True:
            try:
                frame = source.read()
            except FrameError as error:
                lost.append(str(error))
                continue
            if frame is None:
                return seen, lost
            seen.append(frame.seq)


def test_damaged_frames_are_lost_one_by_one_and_the_rest_is_read(
    video_of_objects: Footage, tmp_path: Path
) -> None:
    path = damage(video_of_objects.path, tmp_path / "damaged.mp4", video_of_objects.few)
    seen, lost = read_all(path)
    assert 1 <= len(lost) <= 15
    assert "does not decode" in lost[0]
    assert len(seen) + len(lost) == video_of_objects.frames
    assert len(seen) == len(set(seen))
    assert seen[-1] == video_of_objects.frames - 1


def test_file_of_which_the_rest_is_damaged_is_an_error(
    video_of_objects: Footage, tmp_path: Path
) -> None:
    path = damage(video_of_objects.path, tmp_path / "damaged.mp4", video_of_objects.many)
    first = video_of_objects.first_lost
    left_s = (video_of_objects.frames - first) / video_of_objects.fps
    with pytest.raises(CaptureError, match=rf"nothing decodes from frame {first} on, ") as error:
        read_all(path)
    assert f"{int(left_s)}." in str(error.value)


def test_file_of_which_nothing_decodes_is_an_error(
    video_of_objects: Footage, tmp_path: Path
) -> None:
    data = bytearray(video_of_objects.path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises((CaptureError, SourceError), match=r"zeros\.mp4"):
        read_all(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("words.mp4", b"these are words\n" * 50, "the file is text"),
        ("words.txt", b"these are words\n" * 50, "the file is text"),
        ("noise.avi", bytes(np.random.default_rng(0).bytes(5000)), "not a video"),
    ],
    ids=["empty", "text", "text-that-ffmpeg-would-play", "noise"],
)
def test_file_that_is_no_video(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        open_source(str(path))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_video_that_lost_its_end_with_the_index(video_of_objects: Footage, tmp_path: Path) -> None:
    data = video_of_objects.path.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="cut off"):
        open_source(str(path))


def test_opencv_adds_no_lines_of_its_own_to_an_error(tmp_path: Path) -> None:
    """In a separate process, since OpenCV reads FFmpeg's log level only once."""
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    program = (
        "from pipeline.sources import open_source\nfrom pipeline.errors import SourceError\n"
        f"try: open_source({str(path)!r})\nexcept SourceError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: not a video")
    assert done.stderr == ""


def test_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="not a regular file"):
        open_source(str(path))


class Recorded:
    """Replaces an OpenCV capture; its frames are given."""

    def __init__(self, *images: np.ndarray | None) -> None:
        self._images = list(images)
        self.released = 0

    def get(self, key: int) -> float:
        return 0.0

    def grab(self) -> bool:
        return bool(self._images)

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        image = self._images.pop(0)
        return image is not None, image

    def release(self) -> None:
        self.released += 1


def test_grey_camera_gives_three_channels_and_a_deep_one_is_refused() -> None:
    grey = np.full((4, 6), 9, np.uint8)
    source = Camera(Recorded(grey, grey[..., None], np.zeros((4, 6), np.uint16), None), "c", "x")
    for _ in range(2):
        frame = source.read()
        assert frame is not None
        assert frame.image.shape == (4, 6, 3)
        assert (frame.image == 9).all()
    with pytest.raises(FrameError, match="frame 2 must be an image of 8-bit channels"):
        source.read()
    with pytest.raises(FrameError, match="frame 3 does not decode"):
        source.read()


def test_unplugged_camera_is_an_error_with_the_number_of_frames() -> None:
    source = Camera(Recorded(np.zeros((4, 6, 3), np.uint8)), "c", "/dev/video99")
    assert source.read() is not None
    with pytest.raises(CaptureError, match="camera /dev/video99: it was unplugged; after 1 frames"):
        source.read()


def test_capture_is_not_released_under_a_running_grab() -> None:
    """Closing while a grab runs leaves the release to the reader."""
    grabbing, go_on = threading.Event(), threading.Event()

    class Slow(Recorded):
        def grab(self) -> bool:
            grabbing.set()
            assert go_on.wait(10)
            assert self.released == 0
            return super().grab()

    capture = Slow(np.zeros((4, 6, 3), np.uint8))
    source = Camera(capture, "c", "x")
    reader = threading.Thread(target=source.read)
    reader.start()
    assert grabbing.wait(10)
    source.close()
    assert capture.released == 0
    go_on.set()
    reader.join(10)
    assert capture.released == 1
    assert source.read() is None
