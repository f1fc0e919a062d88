"""Real videos, made small, and a web server that sends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.opencv_logging import quiet_opening

SIZE = (160, 120)
FRAMES = 40
BOUNDARY = "frame"


class Clock:
    """Replaces the module `time` by a clock that advances only on request."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    time_ns = monotonic_ns


def image_of(number: int) -> np.ndarray:
    """An image that tells its number by its brightness, whatever a codec does to it."""
    return np.full((SIZE[1], SIZE[0], 3), min(20 + 5 * number, 255), np.uint8)


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 5)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 160x120 at 20 frames a second."""
    path = tmp_path_factory.mktemp("video") / "Küche 1.avi"
    with quiet_opening():  # the first use of FFmpeg settles what it says in this process
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 20.0, SIZE
        )
    for number in range(FRAMES):
        writer.write(image_of(number))
    writer.release()
    return path


class Server:
    """A web server, on a free port by default; `paths` maps a path to its handler."""

    def __init__(self, port: int = 0) -> None:
        self.paths: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.gone = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = outer.paths.get(self.path.partition("?")[0])
                if answer is None:
                    self.send_error(404)
                    return
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._http.server_port

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        self.gone.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def send_file(path: Path) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with a file, or with the part that the request names."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        data = path.read_bytes()
        first = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        request.send_response(206)
        request.send_header("Content-Type", "video/x-msvideo")
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - first))
        request.end_headers()
        request.wfile.write(data[first:])

    return answer


def part_of(number: int) -> bytes:
    """An image as one part of what a network camera sends."""
    jpeg = cv2.imencode(".jpg", image_of(number))[1].tobytes()
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def send_images(
    count: int, after: Callable[[int], object] = lambda _: None, *, kept: int = 0
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer like a network camera, one JPEG after the other; `after` is called after each.

    The first `kept` of them lie ready and are sent at once, without a call.
    """

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        request.end_headers()
        request.wfile.write(b"".join(map(part_of, range(kept))))
        for number in range(kept, count):
            request.wfile.write(part_of(number))
            request.wfile.flush()
            after(number)

    return answer
