"""Streams over http from a real server."""

from __future__ import annotations

import contextlib
import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from ..footage import Footage
from .conftest import FRAMES, Server, number_of, send_file, send_images


def drain(source: Source[Frame]) -> int:
    """Read to the end; how many frames came. The last one may have come in part."""
    count = 0
    while True:
        with contextlib.suppress(FrameError):
            if source.read() is None:
                return count
            count += 1


def test_images_of_a_network_camera_arrive_in_order_and_live(server: Server) -> None:
    server.paths["/front/cam.mjpg"] = send_images(12)
    with open_source(server.url("/front/cam.mjpg")) as source:
        assert source.live
        assert source.frames is None
        frames = [source.read() for _ in range(12)]
    assert [frame.seq for frame in frames if frame] == list(range(12))
    assert [number_of(frame.image) for frame in frames if frame] == list(range(12))
    assert {frame.camera for frame in frames if frame} == {"camera_127_0_0_1"}


def test_end_of_a_live_stream_is_an_error_that_counts_the_frames(server: Server) -> None:
    server.paths["/cam"] = send_images(5)
    with open_source(server.url("/cam"), reconnect=False) as source:
        for _ in range(5):
            assert source.read() is not None
        with pytest.raises(CaptureError, match="the stream ended; after 5 frames"):
            source.read()


def test_stream_that_falls_silent_is_an_error(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.paths["/cam"] = send_images(9, lambda sent: sent == 7 and server.gone.wait(30))
    with (
        open_source(server.url("/cam"), reconnect=False, read_timeout_s=1.5) as source,
        pytest.raises(CaptureError, match=r"sent nothing for \d"),
    ):
        drain(source)
    assert "WARN" not in capfd.readouterr().err


def test_close_from_another_thread_ends_a_read_that_waits(server: Server) -> None:
    silent = threading.Event()

    def fall_silent(sent: int) -> None:
        if sent == 7:
            silent.set()
            server.gone.wait(30)

    server.paths["/cam"] = send_images(9, fall_silent)
    source = open_source(server.url("/cam"), read_timeout_s=30)
    ended = threading.Event()

    def read_all() -> None:
        drain(source)
        ended.set()

    reader = threading.Thread(target=read_all)
    reader.start()
    assert silent.wait(10)
    source.close()
    assert ended.wait(10)
    reader.join(10)
    assert source.read() is None


def test_file_on_a_web_server_is_no_live_stream(server: Server, video: Path) -> None:
    server.paths["/clip.avi"] = send_file(video)
    with open_source(server.url("/clip.avi")) as source:
        assert not source.live
        assert source.frames == FRAMES
        numbers = []
        while (frame := source.read()) is not None:
            numbers.append(number_of(frame.image))
    assert numbers == list(range(FRAMES))


def test_file_on_a_web_server_loses_no_frame(server: Server, video_of_objects: Footage) -> None:
    server.paths["/v.mp4"] = send_file(video_of_objects.path)
    with open_source(server.url("/v.mp4")) as source:
        assert drain(source) == video_of_objects.frames


def test_file_on_a_web_server_that_falls_silent_is_an_error(
    server: Server, video_of_objects: Footage
) -> None:
    data = video_of_objects.path.read_bytes()

    def send_half(request: BaseHTTPRequestHandler) -> None:
        first = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        request.send_response(206)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - first))
        request.end_headers()
        half = len(data) // 2
        request.wfile.write(data[first:] if first >= half else data[first:half])
        if first < half:
            server.gone.wait(30)

    server.paths["/v.mp4"] = send_half
    with (
        open_source(server.url("/v.mp4"), read_timeout_s=2) as source,
        pytest.raises(CaptureError, match=r"sent nothing for \d\.\d s; after \d+ frames"),
    ):
        drain(source)


def test_missing_path_says_that_the_server_answers_and_hides_the_password(server: Server) -> None:
    with pytest.raises(SourceError, match="the server answers, but no video") as error:
        open_source(server.url("/nothing", user="robot:secret@"))
    assert "secret" not in str(error.value)
    assert "robot" not in str(error.value)


def test_address_without_a_server_is_bad_input() -> None:
    with pytest.raises(SourceError, match=r"rtsp://127\.0\.0\.1:9: nothing answers on port 9"):
        open_source("rtsp://user:secret@127.0.0.1:9/x", open_timeout_s=2)


def test_server_that_never_answers_fails_after_the_open_timeout(server: Server) -> None:
    server.paths["/mute"] = lambda _: server.gone.wait(30)
    with pytest.raises(SourceError, match=r"no video came within \d+\.\d s"):
        open_source(server.url("/mute"), open_timeout_s=1.0)


class Mute(socketserver.StreamRequestHandler):
    """An rtsp server that agrees to everything and then sends no image."""

    SDP = "v=0\r\ns=mute\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    ANSWERS: ClassVar[dict[str, str]] = {
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
    }

    def handle(self) -> None:
        while request := self.rfile.readline().decode():
            number = "0"
            while line := self.rfile.readline().decode().strip():
                if line.startswith("CSeq:"):
                    number = line[5:].strip()
            answer = self.ANSWERS.get(request.split()[0], "\r\n")
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{answer}".encode())


def test_server_that_accepts_and_sends_nothing_is_not_reported_as_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.capture.live.HANG_GRACE_S", 1.5)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mute) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"rtsp://127.0.0.1:{server.server_address[1]}/cam"
        with pytest.raises(SourceError, match=r"sent nothing for \d\.\d s; after 0 frames"):
            open_source(url, open_timeout_s=1.0, read_timeout_s=2.0)
        server.shutdown()


def test_opening_leaves_the_environment_as_it_was(server: Server) -> None:
    before = dict(os.environ)
    with pytest.raises(SourceError):
        open_source("rtsp://127.0.0.1:9/x", open_timeout_s=1)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "url",
    ["http://[half", "http://host:port/x", "rtsp://host:99999/x"],
    ids=["ipv6", "text", "big"],
)
def test_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="not a valid address"):
        open_source(url)
