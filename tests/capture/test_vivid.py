"""Real Video4Linux: the virtual camera of `modprobe vivid`, with faults on request."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.capture.camera import device_path, list_cameras
from pipeline.errors import CaptureError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source

FPS = 10
WANTED = {"width": 320, "height": 180, "fps": float(FPS)}
DRIVER = Path("/sys/bus/platform/drivers/vivid")
ROOT = Path(__file__).resolve().parents[2]

# What linux/videodev2.h and the driver's vivid-ctrls.c call VIDIOC_S_CTRL and its controls.
SET_CONTROL = 0xC008561C
DROPPED_PERCENT = 0x00F0F040
DISCONNECT = 0x00F0F041
STREAMON_ERROR = 0x00F0F045
STREAMING_ERROR = 0x00F0F046


class Vivid:
    """A virtual camera that is not in use, and its controls."""

    def __init__(self, path: str) -> None:
        self.path = path

    def set(self, control: int, value: int = 1) -> None:
        file = os.open(self.path, os.O_RDWR)
        try:
            fcntl.ioctl(file, SET_CONTROL, struct.pack("Ii", control, value))
        finally:
            os.close(file)


@pytest.fixture
def vivid() -> Iterator[Vivid]:
    paths = [path for path, name in list_cameras().items() if name.startswith("vivid")]
    if not paths:
        pytest.skip("needs the kernel's virtual camera: modprobe vivid")
    if not os.access(paths[0], os.R_OK | os.W_OK):
        pytest.skip(f"needs to be allowed to open {paths[0]}: the group 'video', or root")
    camera = Vivid(paths[0])
    camera.set(DROPPED_PERCENT, 0)
    yield camera
    with contextlib.suppress(OSError):  # a test may have left none
        camera.set(DROPPED_PERCENT, 0)


def stamps_ns(source: Source, count: int) -> list[int]:
    frames = [source.read() for _ in range(count)]
    return [frame.stamp_ns for frame in frames if frame is not None]


def test_size_rate_and_stamps_are_those_of_the_driver(vivid: Vivid) -> None:
    with open_source(vivid.path, **WANTED) as source:
        assert source.camera == Path(vivid.path).name
        assert source.fps == FPS
        frame = source.read()
        assert frame is not None
        assert frame.image.shape == (180, 320, 3)
        assert frame.image.std() > 10  # its colour bars
        stamps = stamps_ns(source, 11)
        took_s = (stamps[-1] - stamps[0]) / 1e9
        assert sorted(set(stamps)) == stamps
        assert took_s > 0.8 * 10 / FPS
        # A frame that waited in the driver keeps its age; it is not stamped when read.
        threading.Event().wait(0.5)
        frame = source.read()
        assert frame is not None
        assert time.time_ns() - frame.stamp_ns > 0.2e9
        assert frame.stamp_ns > stamps[-1]


def test_number_and_path_are_the_same_camera(vivid: Vivid) -> None:
    number = vivid.path.removeprefix("/dev/video")
    assert device_path(number) == vivid.path
    with open_source(number, **WANTED) as source:
        assert source.read() is not None


def test_silent_camera_fails_within_the_time_limit(vivid: Vivid) -> None:
    with open_source(vivid.path, **WANTED, read_timeout_s=1.5, reconnect=False) as source:
        assert source.read() is not None
        vivid.set(DROPPED_PERCENT, 100)
        with pytest.raises(CaptureError, match="no frame came for"):
            stamps_ns(source, 5)  # only those that arrived before
    with pytest.raises(SourceError, match="opened, but no frame came for"):
        open_source(vivid.path, **WANTED, open_timeout_s=1.5)


def test_camera_whose_driver_fails_reconnects(
    vivid: Vivid, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_source(vivid.path, **WANTED) as source:
        seqs, stamps = [], []
        for fault in (None, STREAMING_ERROR, DISCONNECT):
            before = source.counts()["reconnects"]
            if fault is not None:
                vivid.set(fault)
            for _ in range(FPS):
                frame = source.read()
                assert frame is not None
                seqs.append(frame.seq)
                stamps.append(frame.stamp_ns)
            assert source.counts()["reconnects"] == before + (fault is not None)
    assert sorted(set(seqs)) == seqs
    assert sorted(set(stamps)) == stamps
    assert capfd.readouterr().err == ""


def test_camera_that_does_not_start_is_refused_at_once(vivid: Vivid) -> None:
    vivid.set(STREAMON_ERROR)
    with pytest.raises(SourceError, match="opened, but its driver failed"):
        open_source(vivid.path, **WANTED)
    with open_source(vivid.path, **WANTED) as source:
        assert source.read() is not None


def test_error_for_a_busy_camera_names_the_process_that_holds_it(
    vivid: Vivid, capfd: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import sys; from pipeline.sources import open_source; s = open_source(sys.argv[1]); "
        "s.read(); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, vivid.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(SourceError, match=rf"in use by .*\(process {other.pid}\)"):
            open_source(vivid.path)
        other.stdin.close()
    assert capfd.readouterr().err == ""
    with open_source(vivid.path) as source:
        assert source.read() is not None


def test_camera_that_is_unplugged_is_found_again(
    vivid: Vivid, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    if not os.access(DRIVER / "unbind", os.W_OK):
        pytest.skip("needs root, to unplug the virtual camera")
    index = Path("/sys/class/video4linux", Path(vivid.path).name, "device")
    socket = os.path.basename(os.path.realpath(index))
    with open_source(vivid.path, **WANTED) as source:
        stamp = stamps_ns(source, FPS)[-1]
        (DRIVER / "unbind").write_text(socket)
        plug_in = threading.Timer(1.0, (DRIVER / "bind").write_text, [socket])
        plug_in.start()
        try:
            frame = source.read()
        finally:
            plug_in.join()
        assert frame is not None
        assert frame.seq > FPS
        assert frame.stamp_ns > stamp
        assert source.counts()["reconnects"] == 1
        assert source.counts()["gap_s"] > 0.5
    assert "unplugged" in caplog.text or "its driver failed" in caplog.text
    assert capfd.readouterr().err == ""
