"""RTSP from servers in processes that can be killed: GStreamer's if it is here, and a small one."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import CaptureError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

GSTREAMER = Path(__file__).with_name("rtsp_server.py")
SMALL = Path(__file__).with_name("jpeg_rtsp_server.py")
NEEDS = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
missing = [e for e in ("appsrc", "x264enc", "rtph264pay") if not Gst.ElementFactory.find(e)]
raise SystemExit(" ".join(missing) or 0)
"""
FRESH_MS = 1000.0
"""Older than that is what a server had kept; the frames of these tests are 33 ms apart."""


@functools.cache
def python_of_the_bindings() -> str | None:
    """The system's Python if it has GStreamer's bindings, which Debian builds for it alone."""
    for python in ("/usr/bin/python3", sys.executable):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [python, "-I", "-c", NEEDS]
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            if done.returncode == 0:
                return python
    return None


class RtspServer:
    """`rtsp://127.0.0.1:PORT/cam`, which can be killed and started again."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self._command, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def resize(self, width: int, height: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"size {width}x{height}\n".encode())
        self._process.stdin.flush()


class Proxy:
    """Passes bytes on between a client and the server.

    - `flowing`: while it is clear, the server's bytes are held back
    - `cut_after`: close the connection after this many bytes from the server
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.flowing = threading.Event()
        self.flowing.set()
        self.cut_after: int | None = None
        self.sent = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [client, server]
                for source, sink, held in ((client, server, False), (server, client, True)):
                    threading.Thread(
                        target=self._pass, args=(source, sink, held), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if is_held:
                    self.flowing.wait()
                    if self.cut_after is not None and self.sent + len(data) >= self.cut_after:
                        data, self.cut_after = data[: self.cut_after - self.sent], None
                        sink.sendall(data)
                        break
                    self.sent += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.flowing.set()
        self._listener.close()
        for end in self._sockets:
            end.close()


COMMANDS = {"jpeg": [sys.executable, str(SMALL)]}
if (bindings := python_of_the_bindings()) is not None:
    COMMANDS["h264"] = [bindings, "-I", str(GSTREAMER)]


@pytest.fixture(params=COMMANDS.values(), ids=COMMANDS)
def rtsp(request: pytest.FixtureRequest) -> Iterator[RtspServer]:
    server = RtspServer(request.param)
    yield server
    server.kill()


@pytest.fixture
def proxy(rtsp: RtspServer) -> Iterator[Proxy]:
    proxy = Proxy(rtsp.port)
    yield proxy
    proxy.close()


def address(server: RtspServer | Proxy) -> str:
    return f"rtsp://127.0.0.1:{server.port}/cam"


def age_ms(frame: Frame) -> int:
    """How long before its stamp the image was made, by the clock that it shows."""
    cell = frame.image.shape[1] // 10
    shown = 0
    for bit in range(30):
        row, column = divmod(bit, 10)
        middle = frame.image[row * cell + cell // 2, column * cell + cell // 2]
        shown |= int(middle.mean() > 128) << bit
    return (frame.stamp_ns // 1_000_000 - shown) % (1 << 30)


@pytest.fixture
def is_fresh(stalls) -> Callable[[Frame], bool]:
    """Whether a frame is as new as one that the server did not buffer."""
    return lambda frame: age_ms(frame) < FRESH_MS + 1000 * stalls.total_s()


def read_until(source: Source[Frame], wanted: Callable[[Frame], bool]) -> Frame:
    """The first frame that meets the condition; fails if none comes within 60 s."""
    guard = threading.Timer(60, source.close)
    guard.start()
    try:
        while True:
            frame = source.read()
            assert frame is not None, "no such frame came"
            if wanted(frame):
                return frame
    finally:
        guard.cancel()


def test_frames_are_live_and_as_fresh_as_they_say(rtsp: RtspServer, stalls) -> None:
    with open_source(address(rtsp)) as source:
        assert source.live
        ages = [age_ms(read_until(source, lambda _: True)) for _ in range(30)]
    limit_ms = FRESH_MS / 4 + 1000 * stalls.total_s()
    assert np.median(ages) < limit_ms
    assert ages[0] < limit_ms


def test_server_that_is_killed_and_started_again_is_found(
    rtsp: RtspServer, is_fresh: Callable[[Frame], bool]
) -> None:
    with open_source(address(rtsp)) as source:
        last = read_until(source, lambda frame: frame.seq >= 30)
        rtsp.kill()
        rtsp.start()
        frame = read_until(source, lambda frame: frame.seq > last.seq + 200 or restarted(source))
        assert frame.seq > last.seq + 1
        assert is_fresh(frame)


def restarted(source: Source[Frame]) -> bool:
    return source.counts()["reconnects"] > 0


def test_server_that_accepts_and_sends_nothing_is_bad_input(proxy: Proxy) -> None:
    proxy.flowing.clear()
    with pytest.raises(SourceError, match=r"the server answers, but no video came within"):
        open_source(address(proxy), open_timeout_s=1)


def test_stream_that_stalls_is_opened_again(
    proxy: Proxy, is_fresh: Callable[[Frame], bool]
) -> None:
    with open_source(address(proxy), read_timeout_s=1.0) as source:
        read_until(source, lambda frame: frame.seq >= 30)
        proxy.flowing.clear()
        resume = threading.Timer(4.0, proxy.flowing.set)
        resume.start()
        frame = read_until(source, lambda _: restarted(source))
        resume.join()
        assert source.counts()["gap_s"] > 1.0
        assert is_fresh(frame)


def test_stream_that_stalls_is_an_error_without_reconnecting(proxy: Proxy) -> None:
    with open_source(address(proxy), read_timeout_s=1.0, reconnect=False) as source:
        read_until(source, lambda frame: frame.seq >= 5)
        proxy.flowing.clear()
        # OpenCV 4.6 gives the frame that it still has at the time-out, and then fails at once.
        with pytest.raises(CaptureError, match=r"sent nothing for \d\.\d s|the stream ended"):
            read_until(source, lambda _: False)


def test_frames_held_back_while_opening_are_skipped(
    proxy: Proxy, is_fresh: Callable[[Frame], bool]
) -> None:
    proxy.sent, held = 0, threading.Event()

    def hold() -> None:
        while proxy.sent < 4000:  # the answers to the handshake and a few packets
            held.wait(0.01)
        proxy.flowing.clear()
        held.wait(2.5)
        proxy.flowing.set()

    holder = threading.Thread(target=hold)
    holder.start()
    with open_source(address(proxy), open_timeout_s=10.0) as source:
        frame = read_until(source, lambda _: True)
        holder.join()
        assert is_fresh(frame)


def test_stream_cut_in_the_middle_of_a_frame_continues(
    proxy: Proxy, is_fresh: Callable[[Frame], bool]
) -> None:
    with open_source(address(proxy)) as source:
        read_until(source, lambda frame: frame.seq >= 30)
        proxy.cut_after = proxy.sent + 1000
        frame = read_until(source, lambda _: restarted(source))
        assert is_fresh(frame)


@pytest.mark.skipif(
    int(cv2.__version__.partition(".")[0]) < 5,
    reason="OpenCV 4 repeats the last image once the size of a running stream changes",
)
def test_new_size_of_a_running_stream_leaves_the_images_whole(
    rtsp: RtspServer, is_fresh: Callable[[Frame], bool]
) -> None:
    with open_source(address(rtsp)) as source:
        last = read_until(source, lambda frame: frame.seq >= 10)
        rtsp.resize(320, 240)
        late = read_until(source, lambda frame: frame.seq >= last.seq + 60)
        assert late.image.shape in {(120, 160, 3), (240, 320, 3)}  # OpenCV 5 scales to the first
        assert is_fresh(late)


def test_new_size_after_a_restart_is_passed_on_also_in_a_child(
    rtsp: RtspServer, is_fresh: Callable[[Frame], bool]
) -> None:
    with open_source(address(rtsp), isolate=True) as source:
        assert read_until(source, lambda _: True).image.shape == (120, 160, 3)
        rtsp.kill()
        rtsp.start()
        rtsp.resize(640, 480)
        frame = read_until(source, lambda frame: frame.image.shape == (480, 640, 3))
        assert is_fresh(frame)
