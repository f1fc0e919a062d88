"""Video files: real ones, generated ones, and what is none."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture import open_source
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.types import Frame

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


def test_stamp_is_the_wall_clock_at_the_grab(video: Path) -> None:
    with open_source(str(video)) as source:
        before = time.time_ns()
        frame = source.read()
        after = time.time_ns()
    assert frame is not None
    assert before <= frame.stamp_ns <= after


@pytest.mark.parametrize(
    ("name", "frames", "fps", "shape"),
    [
        ("car-detection", 377, 12.5, (432, 768, 3)),
        ("bottle-detection", 1189, 29.83, (360, 640, 3)),
    ],
    ids=["cars", "bottles"],
)
def test_real_videos_give_the_pixels_that_opencv_gives(
    shared: Path, name: str, frames: int, fps: float, shape: tuple[int, int, int]
) -> None:
    path = shared / "videos" / f"{name}.mp4"
    reference = cv2.VideoCapture(str(path))
    count = 0
    with open_source(str(path)) as source:
        assert source.frames == frames
        assert source.fps == pytest.approx(fps, abs=0.01)
        while (frame := source.read()) is not None:
            if count % 100 == 0:
                assert frame.image.shape == shape
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
    """The numbers that came, and the messages of those that were lost."""
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


def test_damaged_frames_are_lost_one_by_one_and_the_rest_goes_on(
    shared: Path, tmp_path: Path
) -> None:
    path = damage(shared / "videos" / "bottle-detection.mp4", tmp_path / "damaged.mp4", 500)
    seen, lost = read_all(path)
    assert 1 <= len(lost) <= 5
    assert "does not decode" in lost[0]
    assert len(seen) + len(lost) == 1189
    assert len(seen) == len(set(seen))
    assert seen[-1] == 1188


def test_file_of_which_the_rest_is_damaged_is_an_error(shared: Path, tmp_path: Path) -> None:
    path = damage(shared / "videos" / "bottle-detection.mp4", tmp_path / "damaged.mp4", 200_000)
    with pytest.raises(CaptureError, match=r"nothing decodes after frame 4\d\d, 2\d s before"):
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


def test_video_that_lost_its_end_with_the_index(shared: Path, tmp_path: Path) -> None:
    data = (shared / "videos" / "bottle-detection.mp4").read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="cut off"):
        open_source(str(path))


def test_opencv_adds_no_lines_of_its_own_to_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(SourceError):
        open_source(str(path))
    assert capfd.readouterr() == ("", "")
