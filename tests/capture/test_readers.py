"""Sources that hang, die and crash, read on a thread and in a child process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.readers import ChildReader, HangError, Reader, Request, ThreadReader
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source, SourceOptions
from pipeline.sources import open_source
from pipeline.types import Frame
from tests.waiting import WAIT_S, happens

from .conftest import Server, image_of, send_images


class Stuck(Source[Frame]):
    """Gives one frame; the next read never returns."""

    camera, live, frames, fps = "stuck", True, None, None

    def __init__(self) -> None:
        self._seq = 0

    def read(self) -> Frame | None:
        if self._seq:
            threading.Event().wait()
        self._seq += 1
        return Frame(image_of(0), time.time_ns(), 0, self.camera)

    def close(self) -> None:
        pass


class Faulty(Stuck):
    """Has a mistake of its author."""

    def read(self) -> Frame | None:
        raise ZeroDivisionError("no rate")


REQUEST = Request("x", SourceOptions())


def connect(request: Request) -> Source[Frame]:
    """Imported by child processes."""
    return open_source(request.text)


def connect_faulty(request: Request) -> Source[Frame]:
    """Imported by child processes."""
    return Faulty()


def child_of(text: str, *, read_limit_s: float = 30.0) -> ChildReader:
    request = Request(text, SourceOptions())
    return ChildReader(connect, request, text, open_limit_s=30.0, read_limit_s=read_limit_s)


def process_of(reader: Reader) -> int:
    assert isinstance(reader, ChildReader)
    assert reader._process is not None
    return reader._process.pid


def is_running(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    return happens(lambda: not is_running(pid), WAIT_S)


def test_read_that_hangs_on_a_thread_times_out() -> None:
    reader = ThreadReader(lambda _: Stuck(), REQUEST, "camera x", open_limit_s=30, read_limit_s=30)
    reader.open()
    assert reader.read() is not None
    reader.read_limit_s = 0.2
    with pytest.raises(HangError, match=r"camera x: reading a frame timed out after 0\.2 s"):
        reader.read()
    assert reader.read() is None


def test_opening_that_hangs_on_a_thread_times_out() -> None:
    def hang(_: Request) -> Source[Frame]:
        threading.Event().wait()
        return Stuck()

    reader = ThreadReader(hang, REQUEST, "camera x", open_limit_s=0.2, read_limit_s=5)
    with pytest.raises(HangError, match="opening timed out"):
        reader.open()


def test_close_ends_an_opening_that_hangs() -> None:
    begun = threading.Event()

    def hang(_: Request) -> Source[Frame]:
        begun.set()
        threading.Event().wait()
        return Stuck()

    reader = ThreadReader(hang, REQUEST, "camera x", open_limit_s=60, read_limit_s=5)
    closer = threading.Thread(target=lambda: begun.wait(10) and reader.close())
    closer.start()
    with pytest.raises(CaptureError, match="closed while it was being opened"):
        reader.open()
    closer.join(30)


def test_child_gives_the_frames_that_the_source_has_here(video: Path) -> None:
    reader = child_of(str(video))
    with reader, open_source(str(video)) as source:
        reader.open()
        assert (reader.camera, reader.live, reader.frames, reader.fps) == (
            source.camera,
            source.live,
            source.frames,
            source.fps,
        )
        pid, kept = process_of(reader), []
        while (frame := source.read()) is not None:
            kept.append((reader.read(), frame))
        assert reader.read() is None
    assert len(kept) == source.frames
    for theirs, ours in kept:
        assert theirs is not None
        assert (theirs.seq, theirs.recorded) == (ours.seq, True)
        assert theirs.stamp_ns - kept[0][0].stamp_ns == ours.stamp_ns - kept[0][1].stamp_ns
        assert 0 < theirs.read_ns - theirs.stamp_ns + theirs.seq * 50_000_000 < 60e9
        np.testing.assert_array_equal(theirs.image, ours.image)
    assert ends(pid)


class Depth(Source[Frame]):
    """One frame with planes of other types and shapes."""

    camera, live, frames, fps = "depth", True, None, 30.0

    def read(self) -> Frame | None:
        planes = {
            "depth": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
            "flow": np.arange(24, dtype=np.int16).reshape(3, 4, 2),
        }
        image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
        return Frame(image, 5, 2, self.camera, planes, read_ns=9, recorded=True)

    def close(self) -> None:
        pass


def connect_depth(_: Request) -> Source[Frame]:
    """Imported by child processes."""
    return Depth()


def test_child_passes_on_planes_and_all_times() -> None:
    with ChildReader(connect_depth, REQUEST, "x", open_limit_s=30, read_limit_s=30) as reader:
        reader.open()
        theirs = reader.read()
    ours = Depth().read()
    assert theirs is not None
    assert ours is not None
    assert theirs.header == ours.header
    assert (theirs.read_ns, theirs.recorded) == (9, True)
    np.testing.assert_array_equal(theirs.image, ours.image)
    assert list(theirs.planes) == ["depth", "flow"]
    for name, plane in ours.planes.items():
        assert theirs.planes[name].dtype == plane.dtype
        np.testing.assert_array_equal(theirs.planes[name], plane)


def test_child_passes_on_errors_with_their_type(tmp_path: Path, video: Path) -> None:
    with (
        child_of(str(tmp_path / "none.mp4")) as reader,
        pytest.raises(SourceError, match="no such file"),
    ):
        reader.open()
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "b.png").write_bytes(b"")
    with child_of(str(tmp_path)) as reader:
        reader.open()
        with pytest.raises(FrameError, match=r"a\.jpg"):
            reader.read()
        with pytest.raises(FrameError, match=r"b\.png"):
            reader.read()
        assert reader.read() is None


def test_child_that_is_killed_is_an_error_and_not_the_end() -> None:
    with child_of("scene:") as reader:
        reader.open()
        assert reader.read() is not None
        os.kill(process_of(reader), signal.SIGSEGV)
        assert ends(process_of(reader))
        with pytest.raises(CaptureError, match=r"the reader process was killed by signal 11"):
            reader.read()


def test_child_that_hangs_is_killed() -> None:
    reader = child_of("scene:?fps=0.01")
    reader.open()
    pid = process_of(reader)
    assert reader.read() is not None
    reader.read_limit_s = 0.5
    with pytest.raises(HangError, match="reader process killed"):
        reader.read()
    assert ends(pid)


def test_close_from_another_thread_ends_a_waiting_read_and_the_child() -> None:
    reader = child_of("scene:?fps=0.01", read_limit_s=60.0)
    reader.open()
    pid = process_of(reader)
    assert reader.read() is not None
    ended: list[Frame | None] = []
    waiter = threading.Thread(target=lambda: ended.append(reader.read()))
    waiter.start()
    reader.close()
    waiter.join(30)
    assert ended == [None]
    assert ends(pid)


def test_child_ends_with_its_parent() -> None:
    reader = child_of("scene:?fps=0.01")
    reader.open()
    pid = process_of(reader)
    reader._socket.close()  # as the system does if a parent is killed
    reader._lines.close()
    assert ends(pid)


def test_child_leaves_no_file_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with child_of("scene:?size=64x48") as reader:
            reader.open()
            assert reader.read() is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_stream_can_be_read_in_a_child_from_the_start(server: Server) -> None:
    server.paths["/cam"] = send_images(6)
    with open_source(server.url("/cam"), isolate=True, reconnect=False) as source:
        for number in range(6):
            frame = source.read()
            assert frame is not None
            assert frame.seq == number
        with pytest.raises(CaptureError, match="the stream ended; after 6 frames"):
            source.read()


def test_an_unknown_exception_keeps_its_type_on_a_thread_and_its_name_from_a_process() -> None:
    thread = ThreadReader(connect_faulty, REQUEST, "camera x", open_limit_s=30, read_limit_s=30)
    child = ChildReader(connect_faulty, REQUEST, "camera x", open_limit_s=30, read_limit_s=30)
    with thread, child:
        thread.open()
        child.open()
        with pytest.raises(ZeroDivisionError, match="no rate"):
            thread.read()
        with pytest.raises(CaptureError, match="camera x: ZeroDivisionError: no rate"):
            child.read()
