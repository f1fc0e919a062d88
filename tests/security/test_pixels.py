"""One limit of pixels holds for every way in which an image or a frame comes in."""

from __future__ import annotations

import ast
import contextlib
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError
from pipeline.images import MAX_PIXELS, decode_image, read_image
from pipeline.images.headers import image_size

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
READERS = {
    "imread": set(),
    "imdecode": {"coding.py"},
    "VideoCapture": {"ffmpeg.py", "camera.py"},
}
"""OpenCV's functions that read pixels, and the only files that may call them."""


def encoded(suffix: str, width: int = 64, height: int = 48) -> bytes:
    return cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()


def tiff_with(*entries: tuple[int, int]) -> bytes:
    """The head of a TIFF whose first directory has these tags, as numbers of 32 bits."""
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


FOREIGN = [
    suffix
    for suffix in (".jp2", ".gif", ".hdr", ".pfm", ".ras")
    if cv2.haveImageWriter(f"a{suffix}")
]


@pytest.mark.parametrize("suffix", FOREIGN)
def test_a_format_whose_size_is_not_known_beforehand_is_refused(suffix, tmp_path):
    pixels = np.zeros((48, 64, 3), np.float32 if suffix in {".hdr", ".pfm"} else np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    path = tmp_path / "a.png"  # the suffix says nothing to the decoder
    path.write_bytes(data)
    with pytest.raises(FrameError, match="not a readable image"):
        read_image(path)


BOMBS = {
    "PNG": encoded(".png")[:16] + struct.pack(">II", 20_000, 20_000) + encoded(".png")[24:],
    "TIFF of another size at first": tiff_with((256, 30_000), (257, 30_000), (256, 8), (257, 8)),
    "TIFF with large tiles": tiff_with((256, 8), (257, 8), (322, 30_000), (323, 30_000)),
    "BigTIFF": b"II+\0" + tiff_with((256, 8), (257, 8))[4:],
    "PNM with a comment": b"P6\n#\r30000 30000\n8 8 255\n" + bytes(192),
    "PNM with two comments": b"P6 #\n#\n30000\n#\n30000 255\n",
    "BMP of OS/2": b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 40_000, 65_535, 1, 24),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)  # calling it fails
    size = image_size(data)
    assert size is None or size[0] * size[1] > MAX_PIXELS
    with pytest.raises(FrameError, match=r"at most 100 million are read|not a readable image"):
        decode_image(data)


def test_a_pnm_image_may_have_comments():
    data = b"P6\n# made by hand\n3 # wide\n2\n255\n" + bytes(range(18))
    assert image_size(data) == (3, 2)
    assert decode_image(data).shape == (2, 3, 3)


def test_every_reader_of_pixels_goes_through_the_limit():
    for path in sorted((ROOT / "pipeline").rglob("*.py")) + sorted((ROOT / "nodes").rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if _is_call(node)]
        for call in calls:
            allowed = READERS.get(call.attr)
            assert allowed is None or path.name in allowed, f"{path} calls cv2.{call.attr}"


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


MEASURE = """
import resource, sys
from pipeline import open_source
from pipeline.errors import VisionError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
frames, problem = 0, None
try:
    options = dict(read_timeout_s=5.0, reconnect=False) if "://" in sys.argv[1] else {}
    with open_source(sys.argv[1], **options) as source:
        while frames < 100 and source.read() is not None:
            frames += 1
except VisionError as error:
    problem = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(frames, grown // 1024, problem)
"""


def measured(source: object) -> tuple[int, int, str]:
    """Read a source in a process; its frames, the MB that this took at most, and its error."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    frames, megabytes, problem = ended.stdout.split(maxsplit=2)
    return int(frames), int(megabytes), problem


def write_video(path: Path) -> bytes:
    """A video of five JPEGs of 64x48, written to `path`; returns its contents."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48)
    )
    for _ in range(5):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_video_of_too_many_pixels_is_refused_before_a_frame_is_decoded(tmp_path):
    path = tmp_path / "a.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F10:1 Ip C420jpeg\nFRAME\n" + bytes(10_000))
    frames, megabytes, problem = measured(path)
    assert "16000 x 16000 pixels; at most 100 million" in problem
    assert frames == 0
    assert megabytes < 100


def test_a_video_whose_frames_are_larger_than_it_states_takes_little_memory(tmp_path):
    path = tmp_path / "a.avi"
    start = b"\xff\xc0\0\x11\x08"  # of a frame in a JPEG; height and width follow
    small, large = (start + struct.pack(">HH", *size) for size in ((48, 64), (16_000, 16_000)))
    data = write_video(path)
    assert data.count(small) == 5
    path.write_bytes(data.replace(small, large))
    frames, megabytes, problem = measured(path)
    assert problem != "None"
    assert frames == 0
    assert megabytes < 700


@pytest.mark.parametrize("length", ["", "Content-Length: 2000000000\r\n"], ids=["none", "stated"])
def test_a_part_of_a_stream_that_never_ends_takes_little_memory(length):
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
    part = b"--frame\r\nContent-Type: image/jpeg\r\n"
    jpeg = encoded(".jpg")

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(head + 5 * (part + b"\r\n" + jpeg + b"\r\n"))
                connection.sendall(part + length.encode() + b"\r\n" + jpeg[:-2])
                while True:
                    connection.sendall(bytes(2**20))

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        _, megabytes, problem = measured(f"http://127.0.0.1:{server.getsockname()[1]}/")
    assert problem != "None"
    assert megabytes < 900
