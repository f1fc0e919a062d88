"""Interlaced video is refused, because OpenCV returns other pixels for it."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import CaptureError
from pipeline.opencv_logging import quiet_opening
from pipeline.sources import open_source

RED, GREEN = (0, 0, 255), (0, 255, 0)
SIZE = (320, 256)  # a multiple of 32, so that both kinds have the same rows of macroblocks
INTERLACED_FAILS = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)
EXTENSION = b"\x00\x00\x01\xb5"  # ISO/IEC 13818-2, 6.2.2.2
SEQUENCE, PICTURE = 1, 8


def mpeg2(path: Path, color: tuple[int, int, int], frames: int) -> bytearray:
    """Progressive frames of one colour, as an elementary stream of MPEG-2."""
    with quiet_opening():
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mpg2"), 25.0, SIZE
        )
    for _ in range(frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), color, np.uint8))
    writer.release()
    return bytearray(path.read_bytes())


def interlaced(stream: bytearray) -> bytearray:
    """The same stream with every picture marked as interlaced."""
    for match in re.finditer(EXTENSION, bytes(stream)):
        start = match.end()
        if stream[start] >> 4 == SEQUENCE:
            stream[start + 1] &= ~0x08  # progressive_sequence
        elif stream[start] >> 4 == PICTURE:
            stream[start + 3] &= ~0x01  # chroma_420_type
            stream[start + 4] &= ~0x80  # progressive_frame
    return stream


def read_colors(path: Path) -> tuple[list[tuple[int, ...]], str]:
    """The colour of each frame, each channel rounded to 0 or 255; and the error at the end."""
    colors = []
    with open_source(str(path)) as source:
        try:
            while (frame := source.read()) is not None:
                pixel = frame.image[SIZE[1] // 2, SIZE[0] // 2]
                colors.append(tuple(255 * (int(value) > 60) for value in pixel))
        except CaptureError as error:
            return colors, str(error)
    return colors, ""


@pytest.mark.parametrize("before", [25, 0], ids=["behind-progressive-ones", "alone"])
def test_interlaced_frames_have_their_own_pixels_or_are_refused(
    tmp_path: Path, before: int
) -> None:
    path = tmp_path / "both.m2v"
    red = mpeg2(tmp_path / "red.m2v", RED, before) if before else bytearray()
    path.write_bytes(red + interlaced(mpeg2(tmp_path / "green.m2v", GREEN, 50)))
    colors, error = read_colors(path)
    if INTERLACED_FAILS:
        assert "usually because it is interlaced" in error
        assert f"ffmpeg -i {path} -vf yadif" in error
        assert before - 1 <= len(colors) <= before
        assert set(colors) <= {RED}
    else:
        assert error == ""
        assert len(colors) >= before + 48
        assert set(colors[before:]) == {GREEN}


def test_progressive_video_of_equal_frames_is_read(tmp_path: Path) -> None:
    path = tmp_path / "red.m2v"
    mpeg2(path, RED, 25)
    colors, error = read_colors(path)
    assert error == ""
    assert len(colors) >= 24
    assert set(colors) == {RED}
