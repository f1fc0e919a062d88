"""Streams that break and come back, from a real web server."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline.capture.live import Backoff, Reconnecting
from pipeline.capture.readers import Request, ThreadReader
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source, SourceOptions
from pipeline.sources import open_source
from pipeline.types import Frame

from .conftest import Clock, Server, image_of, number_of, send_images

RATE = 20.0
SILENCE_S = 30.0


def paced(server: Server) -> Callable[[int], object]:
    """Like a camera: wait a period after each image; gone with its server."""

    def wait(_: int) -> None:
        if server.gone.wait(1 / RATE):
            raise ConnectionResetError

    return wait


def read_frames(source: Source[Frame], count: int) -> list[Frame]:
    """Read `count` frames; fails if they do not come within 60 s."""
    frames: list[Frame] = []
    guard = threading.Timer(60, source.close)
    guard.start()
    try:
        while len(frames) < count:
            frame = source.read()
            assert frame is not None, f"only {len(frames)} of {count} frames came"
            frames.append(frame)
    finally:
        guard.cancel()
    return frames


@pytest.fixture
def second_server() -> Iterator[Callable[[int], Server]]:
    """Starts a server again on the port of one that has stopped."""
    started: list[Server] = []

    def start(port: int) -> Server:
        started.append(Server(port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def test_stream_that_is_cut_continues_and_the_gap_is_counted(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.paths["/cam"] = send_images(30, paced(server))
    with open_source(server.url("/cam")) as source:
        seqs = [frame.seq for frame in read_frames(source, 40)]
        assert source.counts()["reconnects"] == 1
        assert 0 < source.counts()["gap_s"] < 10
    assert seqs[:30] == list(range(30))
    assert seqs[30] > 30
    assert seqs[31:] == list(range(seqs[30] + 1, seqs[30] + 10))
    assert "the stream ended; after 30 frames; reconnecting" in caplog.text


def test_frames_missed_in_the_gap_are_estimated_from_the_rate(server: Server) -> None:
    server.paths["/cam"] = send_images(40, paced(server))
    with open_source(server.url("/cam")) as source:
        opened_s = time.monotonic()
        last = read_frames(source, 40)[-1]
        rate = 40 / (time.monotonic() - opened_s)  # as it really was
        missed = read_frames(source, 1)[0].seq - last.seq - 1
        assert missed == pytest.approx(rate * source.counts()["gap_s"], rel=0.1, abs=2)


def test_silent_stream_is_reopened_after_the_read_timeout(server: Server) -> None:
    requests = []

    def fall_silent(request: BaseHTTPRequestHandler) -> None:
        requests.append(request.path)
        if len(requests) > 1:
            send_images(1000, paced(server))(request)
        send_images(9, lambda sent: server.gone.wait(SILENCE_S) if sent == 7 else None)(request)

    server.paths["/cam"] = fall_silent
    with open_source(server.url("/cam"), read_timeout_s=1.0) as source:
        read_frames(source, 20)
        assert source.counts()["reconnects"] >= 1
        assert 1.0 <= source.counts()["gap_s"] < SILENCE_S


def test_stream_cut_in_the_middle_of_an_image_continues(server: Server) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        send_images(10)(request)
        request.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n")
        request.wfile.write(b"\xff\xd8" + bytes(100))
        server.paths["/cam"] = send_images(1000, paced(server))

    server.paths["/cam"] = cut
    with open_source(server.url("/cam")) as source:
        seqs = []
        while len(seqs) < 15:
            try:
                frame = source.read()
            except FrameError:
                continue
            assert frame is not None
            seqs.append(frame.seq)
    assert seqs == sorted(set(seqs))
    assert len({b - a for a, b in itertools.pairwise(seqs)}) == 2


def test_server_that_was_restarted_is_found_again(
    server: Server, second_server: Callable[[int], Server]
) -> None:
    server.paths["/cam"] = send_images(1000, paced(server))
    with open_source(server.url("/cam")) as source:
        read_frames(source, 10)
        server.stop()

        def restart() -> None:
            again = second_server(server.port)
            again.paths["/cam"] = send_images(1000, paced(again))

        restarted = threading.Timer(1.0, restart)
        restarted.start()
        try:
            read_frames(source, 60)
        finally:
            restarted.join()
        assert source.counts()["reconnects"] == 1


def test_backlog_of_the_server_is_skipped_after_a_reconnect(server: Server) -> None:
    def kept_then_new(request: BaseHTTPRequestHandler) -> None:
        send_images(60, paced(server), kept=30)(request)

    def first(request: BaseHTTPRequestHandler) -> None:
        server.paths["/cam"] = kept_then_new
        send_images(5)(request)

    server.paths["/cam"] = first
    with open_source(server.url("/cam")) as source:
        numbers = [number_of(frame.image) for frame in read_frames(source, 7)]
    assert numbers[:5] == list(range(5))
    assert numbers[5] >= 30


def test_close_ends_the_wait_for_the_next_attempt(server: Server) -> None:
    server.paths["/cam"] = send_images(5)
    source = open_source(server.url("/cam"))
    read_frames(source, 5)
    server.stop()
    ended: list[Frame | None] = []
    reader = threading.Thread(target=lambda: ended.append(source.read()))
    reader.start()
    source.close()
    reader.join(30)
    assert ended == [None]


def test_first_opening_still_fails_as_bad_input() -> None:
    with pytest.raises(SourceError, match="nothing answers"):
        open_source("http://127.0.0.1:9/cam", open_timeout_s=1, reconnect=True)


class Script(Source[Frame]):
    """Gives scripted items in order: a frame, or an error to raise.

    Each takes an eighth of a second, by the clock.
    """

    camera, live, frames, fps = "script", True, None, None

    def __init__(self, *steps: object, clock: Clock | None = None) -> None:
        self._steps = list(steps)
        self._clock = clock or Clock()
        self._seq = 0

    def read(self) -> Frame | None:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        self._clock.now_s += 0.125
        if isinstance(step, Exception):
            raise step
        self._seq += 1
        return Frame(image_of(self._seq), time.time_ns(), self._seq - 1, self.camera)

    def close(self) -> None:
        pass


def reader_of(*steps: object, clock: Clock | None = None) -> ThreadReader:
    def connect(_: Request) -> Source[Frame]:
        if isinstance(steps[0], SourceError):
            raise steps[0]
        return Script(*steps, clock=clock)

    request = Request("script", SourceOptions())
    return ThreadReader(connect, request, "script", open_limit_s=30, read_limit_s=30)


def opened(*steps: object, clock: Clock | None = None) -> ThreadReader:
    reader = reader_of(*steps, clock=clock)
    reader.open()
    return reader


def test_source_whose_frames_never_decode_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("pipeline.capture.live.time", clock)
    damaged = FrameError("script: frame 1 does not decode")
    dialled: list[Exception] = []

    def dial(failure: Exception) -> ThreadReader:
        dialled.append(failure)
        return reader_of("frame")

    source = Reconnecting(
        opened("frame", damaged, clock=clock), dial, patience_s=0.5, backoff=Backoff(0.01)
    )
    with source:
        assert source.read() is not None
        failed, frame = 0, None
        while frame is None:
            try:
                frame = source.read()
            except FrameError:
                failed += 1
    assert failed == 4
    assert "no frame decodes for" in str(dialled[0])


def test_attempts_go_on_until_one_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    readers = [reader_of(SourceError("nobody there")) for _ in range(4)] + [reader_of("frame")]
    source = Reconnecting(
        opened("frame", CaptureError("gone")), lambda _: readers.pop(0), backoff=Backoff(0.001)
    )
    with source:
        assert [frame.seq for frame in read_frames(source, 2)] == [0, 2]
        assert source.counts()["reconnects"] == 1
    assert "nobody there; reconnecting (attempt 4)" in caplog.text


def test_waits_grow_to_a_limit_and_differ() -> None:
    backoff = Backoff(first_s=0.5, longest_s=5.0, random=random.Random(7))  # noqa: S311
    longest = [max(backoff.wait_s(attempt) for _ in range(2000)) for attempt in range(8)]
    limits = [0.5, 1, 2, 4, 5, 5, 5, 5]
    assert longest == pytest.approx(limits, rel=0.02)
    assert all(wait <= limit for wait, limit in zip(longest, limits, strict=True))
    assert min(backoff.wait_s(5) for _ in range(2000)) < 0.05
    assert backoff.wait_s(10_000) <= 5.0
