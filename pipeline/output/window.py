"""Shows results in a window."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import cv2

from pipeline.errors import InputError, OutputError
from pipeline.opencv_logging import quiet_opening
from pipeline.output.drawing import annotated
from pipeline.output.output import Output, OutputKind, Stop
from pipeline.process.children import python_command
from pipeline.text.display import printable
from pipeline.types import Result

_ESCAPE, _SPACE = 27, 32
_PAUSE_POLL_MS = 50
_LARGEST = (1280, 720)
_MOST = 16  # windows; camera names may come over a network
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
_PROBE_TIMEOUT_S = 20.0


class Window(Output):
    """Shows every result, with one window per camera.

    q, Esc or closing a window ends the run; space pauses it. Runs on the main thread. Raises
    `InputError` if no window can be opened here.
    """

    wants_images = True

    def __init__(self, title: str = "vision") -> None:
        check_display()
        self._title = title
        self._closed = threading.Event()
        self._in_use = threading.RLock()
        self._titles: dict[str, str] = {}

    def write(self, result: Result) -> None:
        try:
            with self._in_use:
                if not self._closed.is_set():
                    self._show(result)
        except cv2.error as error:
            raise OutputError(f"--show: the window cannot show images: {error.err}") from error
        finally:
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        """Close the windows and end a pause. Safe to call from another thread during `write`."""
        self._closed.set()
        if self._in_use.acquire(blocking=False):
            try:
                while self._titles:
                    _, title = self._titles.popitem()
                    with contextlib.suppress(cv2.error):  # the user has closed it already
                        cv2.destroyWindow(title)
            finally:
                self._in_use.release()

    def _show(self, result: Result) -> None:
        camera, image = result.header.camera, annotated(result)
        if camera not in self._titles:
            # Here, because a window belongs to the thread that opens it.
            self._open(camera, image.shape[1], image.shape[0])
        title = self._titles[camera]
        cv2.imshow(title, image)
        paused = self._key(title, 1) == _SPACE
        while paused and not self._closed.is_set():
            paused = self._key(title, _PAUSE_POLL_MS) != _SPACE

    def _open(self, camera: str, width: int, height: int) -> None:
        if len(self._titles) == _MOST:
            raise OutputError(f"--show: expected at most {_MOST} cameras, but got more")
        title = printable(f"{self._title}: {camera}" if self._titles else self._title)
        scale = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
        # Qt complains about fonts that nothing here uses.
        with quiet_opening(QT_LOGGING_RULES="*.warning=false"):
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.resizeWindow(title, max(1, round(width * scale)), max(1, round(height * scale)))
        self._titles[camera] = title

    def _key(self, title: str, wait_ms: int) -> int:
        """The key pressed within `wait_ms`, -1 for none. Raises `Stop` if it ends the run."""
        key = int(cv2.waitKey(wait_ms))
        if key >= 0:
            key &= 0xFF  # above it are the shift keys
        if key in {ord("q"), _ESCAPE}:
            raise Stop("ended by a key in the window")
        if cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            raise Stop("the window was closed")
        return key


KIND = OutputKind("show", Window, lambda settings: Window())


def check_display() -> None:
    """Check that a window can be opened, without opening one in this process.

    The library behind OpenCV's windows ends the whole process if the screen does not answer or its
    plug-ins do not load, so another process tries it first. Raises `InputError`.
    """
    advice = "use --record or --jsonl instead"
    linux = sys.platform.startswith("linux")
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    if linux and not screen:
        raise InputError(f"--show: there is no screen (DISPLAY is not set); {advice}")
    try:
        probe = subprocess.run(
            python_command(_PROBE),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"--show: the screen did not answer within {_PROBE_TIMEOUT_S:g} s; {advice}"
        ) from None
    if probe.returncode:
        raise InputError(f"--show: no window can be opened: {_reason(probe.stderr)}; {advice}")


def _reason(text: str) -> str:
    """The most informative line of the probe's output."""
    if "not implemented" in text:
        return "this OpenCV is built without windows (install opencv-python, not -headless)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "display" in line.lower() or "plugin" in line.lower()]
    return (telling or lines or ["no reason given"])[0].rstrip(".")
