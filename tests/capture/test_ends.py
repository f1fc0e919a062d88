"""The end of a file is the end, whatever its header says of its length."""

from __future__ import annotations

import contextlib
import logging
import struct
from pathlib import Path

import cv2
import pytest

from pipeline.errors import CaptureError, FrameError
from pipeline.opencv_logging import quiet_opening
from pipeline.sources import open_source

from .conftest import FRAMES, SIZE, image_of

DURATION = b"\x44\x89\x88"  # of Matroska: the element's id, and its size of 8 bytes


def write(path: Path, codec: str = "MJPG") -> bytearray:
    """40 frames at 20 a second."""
    with quiet_opening():
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 20.0, SIZE
        )
    for number in range(FRAMES):
        writer.write(image_of(number))
    writer.release()
    return bytearray(path.read_bytes())


def count_frames(path: Path) -> int:
    """The number of frames that decode."""
    count = 0
    with open_source(str(path)) as source:
        while True:
            with contextlib.suppress(FrameError):
                if source.read() is None:
                    return count
                count += 1


def longer_mkv(path: Path) -> bytearray:
    """As with a longer audio track, or as one of several segments."""
    data = write(path)
    place = data.index(DURATION) + len(DURATION)
    data[place : place + 8] = struct.pack(">d", 20_000.0)  # ms
    return data


def avi_from_a_pipe(path: Path) -> bytearray:
    """The number of frames is not known when the header is written."""
    data = write(path)
    for box, field in ((b"avih", 16), (b"strh", 32)):
        place = data.index(box) + 8 + field
        data[place : place + 4] = struct.pack("<I", 2**30)
    return data


def longer_mp4(path: Path) -> bytearray:
    """As with a longer audio track: the duration is that of the longest one."""
    data = write(path, "mp4v")
    place = data.index(b"mvhd") + 4 + 16
    data[place : place + 4] = struct.pack(">I", 20_000)  # ms
    return data


@pytest.mark.parametrize(
    ("name", "make", "warnings"),
    [
        ("long.mkv", longer_mkv, ["ends 18.1 s before its header says"]),
        ("pipe.avi", avi_from_a_pipe, []),
        ("long.mp4", longer_mp4, []),
    ],
    ids=["mkv", "avi", "mp4"],
)
def test_intact_file_whose_header_says_more_loses_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, make, warnings: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(make(path))
    with caplog.at_level(logging.WARNING):
        assert count_frames(path) == FRAMES
    assert len(caplog.messages) == len(warnings)
    for message, warning in zip(caplog.messages, warnings, strict=True):
        assert warning in message


def test_mp4_without_its_last_frames_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    data = write(path, "mp4v")
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start + (end - start) // 4 : end] = bytes(end - start - (end - start) // 4)
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=r"nothing decodes from frame \d+ on, 1\.\d s before"):
        count_frames(path)
