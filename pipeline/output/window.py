"""Results in a window on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import cv2

from pipeline.errors import InputError, OutputError
from pipeline.output.drawing import annotated
from pipeline.output.output import Stop
from pipeline.quiet import quiet_opening
from pipeline.types import Result

_ESCAPE, _SPACE = 27, 32
_PAUSE_POLL_MS = 50
_LARGEST = (1280, 720)
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
_PROBE_TIMEOUT_S = 20.0


class Window:
    """Shows every result. q, Esc or closing the window end the run; space pauses it.

    Raises `InputError` where no window can be opened here.
    """

    def __init__(self, title: str = "vision") -> None:
        check_display()
        self._title = title
        self._closed = threading.Event()
        self._in_use = threading.RLock()
        self._opened = False

    def write(self, result: Result) -> None:
        try:
            with self._in_use:
                if not self._closed.is_set():
                    self._show(result)
        except cv2.error as error:
            raise OutputError(f"--show: the window does not take pictures: {error.err}") from error
        finally:
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        """Close the window; a pause ends. From another thread the writing one closes it."""
        self._closed.set()
        if self._in_use.acquire(blocking=False):
            try:
                if self._opened:
                    self._opened = False
                    cv2.destroyWindow(self._title)
            except cv2.error:
                self._opened = False  # the user has closed it already
            finally:
                self._in_use.release()

    def _show(self, result: Result) -> None:
        image = annotated(result)
        if not self._opened:
            # Here, since a window belongs to the thread that opens it.
            self._open(image.shape[1], image.shape[0])
        cv2.imshow(self._title, image)
        paused = self._key(1) == _SPACE
        while paused and not self._closed.is_set():
            paused = self._key(_PAUSE_POLL_MS) != _SPACE

    def _open(self, width: int, height: int) -> None:
        scale = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
        # Qt complains about fonts that nothing here uses.
        with quiet_opening(QT_LOGGING_RULES="*.warning=false"):
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.resizeWindow(self._title, max(1, round(width * scale)), max(1, round(height * scale)))
        self._opened = True

    def _key(self, wait_ms: int) -> int:
        """The key pressed within `wait_ms`, -1 for none; raises `Stop` where it means the end."""
        key = int(cv2.waitKey(wait_ms))
        if key >= 0:
            key &= 0xFF  # above it are the shift keys
        if key in {ord("q"), _ESCAPE}:
            raise Stop("ended by a key in the window")
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            raise Stop("the window was closed")
        return key


def check_display() -> None:
    """See whether a window can be opened, without opening one in this process.

    The library behind OpenCV's windows ends the whole process where the screen does not answer or
    its plug-ins do not load, so another process tries it first. Raises `InputError`.
    """
    advice = "use --record or --jsonl instead"
    linux = sys.platform.startswith("linux")
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    if linux and not screen:
        raise InputError(f"--show: there is no screen (DISPLAY is not set); {advice}")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
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
    """The line of the probe's complaints that says most."""
    if "not implemented" in text:
        return "this OpenCV is built without windows (install opencv-python, not -headless)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "display" in line.lower() or "plugin" in line.lower()]
    return (telling or lines or ["no reason given"])[0].rstrip(".")
