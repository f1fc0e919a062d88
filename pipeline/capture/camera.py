"""Cameras of this machine, through Video4Linux (on other systems through OpenCV's default)."""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import os
import stat
import sys
import time
from pathlib import Path

import cv2

from pipeline.capture.live import open_live
from pipeline.capture.opencv import OpenCVSource, size_of
from pipeline.capture.readers import Request
from pipeline.errors import CaptureError, SourceError
from pipeline.opencv_logging import quiet_opencv, quiet_opening
from pipeline.settings import Settings
from pipeline.source import Source, SourceKind, SourceOptions, safe_name
from pipeline.text.native import utf8
from pipeline.types import Frame, Image

log = logging.getLogger(__name__)

MAX_STAMP_AGE_NS = 2_000_000_000

# With one buffer the driver has nothing to fill while it is read, which halves the rate of many
# cameras; with two, one frame waits, and is as old as its reader is late.
_BUFFERS = 2
# The seconds that OpenCV waits for a frame. It reads the environment at its first wait and keeps
# the value for all cameras of the process, so a longer wait consists of several.
_SELECT_S = 1
_PAUSE_S = 0.05  # between two attempts, if the system's own capture does not wait
_VIDEO_MAJOR = 81  # Linux's number for video devices
_LINUX = sys.platform.startswith("linux")


class Camera(OpenCVSource):
    """A camera, which delivers frames whether they are read or not."""

    live = True
    frames = None

    def __init__(
        self,
        capture: cv2.VideoCapture,
        camera: str,
        device: str,
        read_timeout_s: float = Settings.read_timeout,
    ) -> None:
        super().__init__(capture, camera)
        self._device = device
        self._read_timeout_s = read_timeout_s
        self._size = size_of(capture)

    def await_frame(self, timeout_s: float) -> str | None:
        """Wait for the next frame, or until closed; returns why none came, None if one did."""
        began_s = time.monotonic()
        while not self._closed.is_set():
            asked_s = time.monotonic()
            with quiet_opencv():
                if self._capture.grab():
                    return None
            now_s = time.monotonic()
            if _LINUX and now_s - asked_s < _SELECT_S / 2:
                return "its driver failed" if self._is_there() else "it was unplugged"
            if now_s - began_s >= timeout_s:
                return f"no frame came for {now_s - began_s:.1f} s"
            if not _LINUX:
                self._closed.wait(_PAUSE_S)
        return "it was closed"

    def _is_there(self) -> bool:
        return not self._device.startswith("/") or os.path.exists(self._device)

    def _read(self) -> Frame | None:
        problem = self.await_frame(self._read_timeout_s)
        if self._closed.is_set():
            return None
        if problem:
            raise CaptureError(f"camera {self._device}: {problem}; after {self._seq} frames")
        stamp_ns = driver_stamp_ns(
            self._capture.get(cv2.CAP_PROP_POS_MSEC), time.time_ns(), time.monotonic_ns()
        )
        seq, self._seq = self._seq, self._seq + 1
        return Frame(self._retrieve(seq), stamp_ns, seq, self.camera)

    def _arrange(self, image: Image) -> Image:
        """OpenCV 4.11 returns the format BGR3 as one row of bytes."""
        width, height = self._size
        is_packed = image.ndim == 2 and len(image) == 1 and image.size == height * width * 3
        return image.reshape(height, width, 3) if is_packed else image


def driver_stamp_ns(position_ms: float, wall_ns: int, monotonic_ns: int) -> int:
    """When a frame was captured, in ns since the Unix epoch.

    `position_ms` is the driver's stamp of the buffer, in ms of the monotonic clock (the kernel's
    V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC); `wall_ns` and `monotonic_ns` are both clocks now. A stamp
    in the future or older than 2 s is of another clock, or missing; then the time of the grab is
    used.
    """
    age_ns = monotonic_ns - int(position_ms * 1e6) if math.isfinite(position_ms) else -1
    return wall_ns - age_ns if 0 <= age_ns <= MAX_STAMP_AGE_NS else wall_ns


def device_path(device: str) -> str:
    """The path of a camera given by its number, on systems with such paths."""
    return f"/dev/video{int(device)}" if device.isdecimal() and _LINUX else device


def lasting_path(device: str, links: Path = Path("/dev/v4l/by-path")) -> str:
    """The name under which a camera is found after it was unplugged: that of its USB port.

    Its number may change when it is plugged in again, or go to another camera. Returns `device`
    if the system has no such names.
    """
    path = device_path(device)
    for link in sorted(links.glob("*")):
        if os.path.realpath(link) == os.path.realpath(path):
            return str(link)
    return device


def connect_device(path: str) -> cv2.VideoCapture:
    """OpenCV's capture of a device.

    Raises `SourceError` if there is no such camera or the user may not open it.
    """
    if _LINUX:
        _check_device(path)
    backend = cv2.CAP_V4L2 if _LINUX else cv2.CAP_ANY
    return cv2.VideoCapture(int(path) if path.isdecimal() else utf8(path, SourceError), backend)


def is_camera(text: str) -> bool:
    """Whether `text` is a camera number or a device path."""
    return (text.isascii() and text.isdigit()) or text.startswith("/dev/")


def open_camera(text: str, options: SourceOptions) -> Source[Frame]:
    """Open a camera given by number (`0`) or by path (`/dev/video0`); it reconnects by default.

    Raises `SourceError` if it cannot be opened or delivers no frame, and `ConfigError` if an
    option makes no sense.
    """
    return open_live(
        connect,
        Request(text, options),
        subject=f"camera {device_path(text)}",
        locate=lasting_path,
        may_freeze=True,
    )


def connect(request: Request) -> Camera:
    """Open a camera once and wait for a frame.

    Raises `SourceError` if it is missing, busy, not permitted, or delivers no frame in time.
    """
    options = request.options
    path = device_path(request.text)
    name = options.camera or safe_name(f"video{path}" if path.isdecimal() else Path(path).name)
    # Until the first frame, because OpenCV reads its setting at the first wait for one.
    with quiet_opening(OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT=str(_SELECT_S)):
        capture = connect_device(path)
        if not capture.isOpened():
            raise SourceError(f"camera {path}: cannot be opened; {_why_not(path)}")
        _apply(capture, options)
        source = Camera(capture, name, path, options.read_timeout_s)
        problem = source.await_frame(options.open_timeout_s)
    if problem:
        source.close()
        raise SourceError(f"camera {path}: opened, but {problem}; {_why_silent(path)}")
    _report(source.camera, capture, options)
    return source


def _check_device(path: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SourceError(f"camera {path}: {error.strerror}; {_cameras_here()}") from error
    if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) != _VIDEO_MAJOR:
        raise SourceError(f"camera {path}: not a camera device; {_cameras_here()}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"camera {path}: no permission to open it; its users are in the group 'video' "
            f"(sudo usermod -aG video $USER, then log in again)"
        )


def _apply(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Set the format first: the available sizes and rates depend on it."""
    if options.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
    wanted = {
        cv2.CAP_PROP_FRAME_WIDTH: options.width,
        cv2.CAP_PROP_FRAME_HEIGHT: options.height,
        cv2.CAP_PROP_FPS: options.fps,
        cv2.CAP_PROP_BUFFERSIZE: _BUFFERS,
    }
    for key, number in wanted.items():
        if number is not None:
            capture.set(key, number)


def _report(camera: str, capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Log what the camera delivers, since drivers choose the nearest that they can."""
    width, height = size_of(capture)
    fps = capture.get(cv2.CAP_PROP_FPS)
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    fourcc = code.decode("ascii", "replace")
    given = f"{width}x{height} at {fps:g} fps in {fourcc}"
    log.info("%s delivers %s", camera, given)
    size_differs = (options.width or width, options.height or height) != (width, height)
    format_differs = options.fourcc not in {None, fourcc}
    if size_differs or format_differs or (options.fps and fps < 0.95 * options.fps):
        is_mjpg = "MJPG" in {fourcc, options.fourcc}
        tip = "" if is_mjpg else "; many cameras are faster and larger with fourcc MJPG"
        log.warning(
            "%s was asked for %sx%s at %s fps in %s but delivers %s%s",
            camera,
            options.width or "any",
            options.height or "any",
            options.fps or "any",
            options.fourcc or "any format",
            given,
            tip,
        )


def list_cameras() -> dict[str, str]:
    """The video devices of this Linux machine: the driver's name by path."""
    found = {}
    for entry in sorted(Path("/sys/class/video4linux").glob("video*")):
        with contextlib.suppress(OSError):
            found[f"/dev/{entry.name}"] = (entry / "name").read_text().strip()
    return found


def _cameras_here() -> str:
    cameras = [f"{path} ({name})" for path, name in list_cameras().items()]
    return f"cameras here: {', '.join(cameras) or 'none'}"


def _why_not(path: str) -> str:
    others = holders(path)
    if others:
        return f"it is in use by {', '.join(others)}"
    return f"it is busy, or not a capture device; {_cameras_here()}"


def _why_silent(path: str) -> str:
    others = holders(path)
    if others:
        return f"it is in use by {', '.join(others)}"
    return "if cameras share a USB bus, try a smaller size or fourcc MJPG"


def holders(path: str) -> list[str]:
    """The other processes that have a device open, as `name (process 123)`, if visible to us."""
    device = os.path.realpath(path)
    found = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):  # which skips processes that end meanwhile
        process = Path(link).parent.parent
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and os.readlink(link) == device:
                found[process.name] = (process / "comm").read_text().strip()
    return [f"{name} (process {pid})" for pid, name in found.items()]


KIND = SourceKind(
    "cameras",
    "a camera number or /dev/videoN",
    is_camera,
    open_camera,
    (
        *("width", "height", "fps", "fourcc"),
        *("open_timeout_s", "read_timeout_s", "reconnect", "isolate"),
    ),
)
