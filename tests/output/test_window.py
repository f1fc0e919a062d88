"""The window: on a real X server if there is one, its keys, and machines without a screen."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from pipeline.errors import InputError
from pipeline.output import Stop, window
from pipeline.output.window import Window, check_display

from .conftest import make_result

ROOT = Path(__file__).resolve().parents[2]


def show_all(output: Window) -> None:
    for number in range(10):
        output.write(make_result(seq=number))


def test_machine_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"--show: there is no screen .*use --record"):
        Window()


def test_screen_that_does_not_answer_does_not_end_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPLAY", ":4097")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(InputError, match=r"--show: no window can be opened: .+; use --record"):
        check_display()


def test_build_without_windows_is_named() -> None:
    text = "error: (-2:Unspecified error) The function is not implemented. Rebuild the library"
    assert "built without windows" in window._reason(text)


@pytest.mark.parametrize(
    ("keys", "shown"),
    [("q", 1), ("...q", 4), (chr(27), 1), ("X", 1)],
    ids=["q", "later", "esc", "x"],
)
def test_q_and_escape_and_closing_end_the_run(
    keys: str, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(keys, monkeypatch)
    output = Window()
    with pytest.raises(Stop):
        show_all(output)
    assert screen.shown == shown
    output.close()
    output.close()
    assert screen.destroyed == 1


def test_space_pauses_until_the_next_space(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(". ......  .q", monkeypatch)
    output = Window()
    with pytest.raises(Stop):
        show_all(output)
    # frame 0: '.', frame 1: ' ......' + ' ' to go on, frame 2: ' ' + '.q' within the pause
    assert screen.shown == 3


def test_every_camera_has_a_window_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen("", monkeypatch)
    output = Window()
    for camera in ("left", "right", "left"):
        result = make_result()
        header = dataclasses.replace(result.header, camera=camera)
        output.write(dataclasses.replace(result, header=header))
    assert screen.titles == ["vision", "vision: right", "vision"]
    output.close()
    assert screen.destroyed == 2


def test_close_from_another_thread_ends_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(" ", monkeypatch)
    output = Window()
    ended = threading.Event()

    def show() -> None:
        output.write(make_result())
        ended.set()

    thread = threading.Thread(target=show)
    thread.start()
    assert screen.paused.wait(10)
    output.close()
    assert ended.wait(10)
    thread.join()
    assert screen.destroyed == 1


class Screen:
    """Replaces the screen: presses `keys` one after the other ('.' none, 'X' closes)."""

    def __init__(self, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._keys = iter(keys)
        self._open = True
        self.shown = self.destroyed = 0
        self.titles: list[str] = []
        self.paused = threading.Event()
        monkeypatch.setattr(window, "check_display", lambda: None)
        for name in ("namedWindow", "resizeWindow"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", self._show)
        monkeypatch.setattr(cv2, "waitKey", self._key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: float(self._open))
        monkeypatch.setattr(cv2, "destroyWindow", self._destroy)

    def _show(self, title: str, _: object) -> None:
        self.shown += 1
        self.titles.append(title)

    def _destroy(self, *_: object) -> None:
        self.destroyed += 1

    def _key(self, wait_ms: int) -> int:
        key = next(self._keys, None)
        if key is None:
            self.paused.set()
        if key == "X":
            self._open = False
        return -1 if key in {None, ".", "X"} else ord(key)


@pytest.fixture
def x_server() -> Iterator[str]:
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool")
    if "GUI:                           NONE" in cv2.getBuildInformation():
        pytest.skip("needs an OpenCV with windows")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait(60)


def test_window_on_a_real_screen_ends_at_q(x_server: str) -> None:
    program = (
        "import sys; sys.path[:0] = ['.', 'tests/output']\n"
        "from conftest import make_result\n"
        "from pipeline.output.window import Window\n"
        "from pipeline.output import Stop\n"
        "output = Window('real')\n"
        "output.write(make_result())\n"
        "print('open', flush=True)\n"
        "try:\n"
        "    while True: output.write(make_result())\n"
        "except Stop as stop: print(stop)\n"
        "output.close()"
    )
    environment = dict(os.environ, DISPLAY=x_server)
    shown = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shown.stdout is not None
    assert shown.stdout.readline() == "open\n"
    press = ["xdotool", "search", "--name", "^real$", "key", "--window", "%1", "q"]
    for _ in range(60):  # a window that is not open yet gets no keys
        subprocess.run(press, env=environment, check=False, timeout=60, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            shown.wait(1)
            break
    assert shown.communicate(timeout=60)[0] == "ended by a key in the window\n"
    assert shown.returncode == 0
