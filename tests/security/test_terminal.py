"""Control characters from peers, files and models reach no terminal and no log."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.cli import console
from pipeline.cli.main import main
from pipeline.cli.progress import progress_bar
from pipeline.errors import InputError, RunError
from pipeline.output.progress import Progress
from pipeline.text.display import printable, printable_lines
from pipeline.transport import Publisher
from pipeline.types import Detections, Header, Result
from tests.output.test_progress import Endless

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "cat\x1b]0;title\x07\x1b[31m\nvision: error: forged\r\x9b2J\u202etac\u2028\x7f"
SHOWN = r"cat\x1b]0;title\x07\x1b[31m\nvision: error: forged\r\x9b2J\u202etac\u2028\x7f"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(autouse=True)
def _own_logging():
    """Restore the handlers of the loggers."""
    root, ours = logging.getLogger(), logging.getLogger("pipeline")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def one_harmless_line(text: str) -> None:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert not CONTROLS.search(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("a\tb", r"a\tb"),
        ("v\udcff.mp4", r"v\xff.mp4"),
        ("v\ud800", r"v\ud800"),
        ("été 日本 \U0001f600", "été 日本 \U0001f600"),
        (3, "3"),
    ],
    ids=["hostile", "tab", "byte", "half-pair", "letters", "number"],
)
def test_control_characters_become_escapes(text, shown):
    assert printable(text) == shown


def test_lines_are_kept_apart():
    assert printable_lines("a\x1b\nb\x07") == "a\\x1b\nb\\x07"


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_a_log_line_is_harmless(debug, capfd):
    console.configure(debug=debug)
    logging.getLogger("pipeline.x").warning("label %s", HOSTILE)
    line = capfd.readouterr().err
    one_harmless_line(line)
    assert f"label {SHOWN}" in line


def test_a_logged_traceback_is_harmless(capfd):
    console.configure(debug=True)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("pipeline.x").exception("failed")
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert not CONTROLS.search(shown)


@pytest.mark.parametrize("error", [InputError, RunError, ValueError, ImportError])
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_an_error_is_harmless(error, debug, capfd):
    console.configure(debug=debug)
    console.report(error(HOSTILE))
    shown = capfd.readouterr().err
    assert not CONTROLS.search(shown)
    if not debug:
        one_harmless_line(shown)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--{HOSTILE}"],
        [HOSTILE],
        ["run", f"--{HOSTILE}"],
        ["run", HOSTILE],
        ["run", f"{HOSTILE}://x"],
        ["run", f"scene:?{HOSTILE}=1"],
        ["run", "scene:", "--nms-kind", HOSTILE],
        ["run", "scene:", "--detector", HOSTILE],
        ["run", "scene:", "--camera", HOSTILE],
        ["run", "scene:", "--config", HOSTILE],
        ["models", "info", HOSTILE],
        ["evaluate", "yolov4-tiny-int8", HOSTILE],
        ["completion", HOSTILE],
    ],
    ids=lambda arguments: " ".join(arguments).replace(HOSTILE, "X"),
)
def test_a_mistake_on_the_command_line_is_harmless(arguments, capfd):
    assert main(arguments) == 2
    one_harmless_line(capfd.readouterr().err)


class Terminal(io.StringIO):
    """What a program writes to a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """A terminal as standard output and standard error."""
    screen = Terminal()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        yield screen


def test_lines_tables_and_paths_are_harmless():
    with terminal() as screen:
        console.show(HOSTILE)
        console.show_path(Path(HOSTILE))
        assert screen.getvalue() == f"{SHOWN}\n{SHOWN}\n"
        console.show_table((HOSTILE, "b"), [("a", HOSTILE)])
    shown = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue())  # rich's own colours
    assert not CONTROLS.search(shown)


def test_paths_for_programs_are_unchanged(capfdbinary):
    console.show_path(Path(os.fsdecode(b"a\xff\x1b")))
    assert capfdbinary.readouterr().out == b"a\xff\x1b\n"


def test_the_settings_are_shown_without_control_characters(tmp_path, capfd):
    path = tmp_path / HOSTILE.replace("/", "")
    path.write_text("score: 0.5\n")
    assert main(["config", "--config", str(path)]) == 0
    assert not CONTROLS.search(capfd.readouterr().out)


def test_a_progress_bar_is_harmless(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with terminal() as screen, progress_bar() as report:
        report(f"[red]{HOSTILE}", 1, 2)
        report(f"[red]{HOSTILE}", 2, 2)
    shown = screen.getvalue()
    assert "\x07" not in shown
    assert "\x1b]0" not in shown
    assert f"[red]{SHOWN}" in shown


def hostile_result(seq: int = 0) -> Result:
    detections = Detections(
        np.array([[1, 1, 9, 9]], np.float32),
        np.array([0.9], np.float32),
        np.array([0], np.int32),
        (HOSTILE,),
    )
    return Result(Header("front", seq, time.time_ns(), 16, 16), detections)


def test_the_status_line_is_harmless():
    text = io.StringIO()
    screen = Console(file=text, force_terminal=True, width=200, color_system=None)
    line = Progress(lambda: {"fps": 1.0}, console=screen)
    line.start(Endless())
    line.write(hostile_result())
    line.close()
    assert SHOWN in text.getvalue()
    assert "\x07" not in text.getvalue()


JSON_LINES = """
from pipeline.output.json_lines import JsonLines
from tests.security.test_terminal import hostile_result
with JsonLines("-") as lines:
    lines.write(hostile_result())
"""


def on_terminal(*program: object, until: bytes = b"") -> tuple[subprocess.Popen, bytes]:
    """Run Python with a terminal as its output; gives the process and what it shows.

    Reads until the process ends, or to the bytes `until`.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, program)],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
    )
    os.close(theirs)
    rescue = threading.Timer(60, process.kill)
    rescue.start()
    shown = b""
    try:
        while not (until and until in shown):
            part = os.read(ours, 1 << 16)
            if not part:
                break
            shown += part
    except OSError:  # as Linux reports a closed terminal
        pass
    finally:
        rescue.cancel()
        process.kill()
        process.wait()
        os.close(ours)
    return process, shown


def test_json_lines_on_a_terminal_are_harmless():
    _, shown = on_terminal("-c", JSON_LINES)
    assert b"forged" in shown
    assert not CONTROLS.search(shown.decode().replace("\r\n", "\n"))


def test_labels_of_a_peer_do_not_reach_the_terminal(tmp_path):
    address = f"zmq+ipc://{tmp_path}/socket"
    stop = threading.Event()

    def publish() -> None:
        with Publisher(address) as publisher:
            seq = 0
            while not stop.wait(0.02):
                publisher.send_result(hostile_result(seq))
                seq += 1

    sender = threading.Thread(target=publish, daemon=True)
    sender.start()
    try:
        _, shown = on_terminal(
            *("-m", "pipeline.cli", "view", "--subscribe", address),
            *("--jsonl", tmp_path / "out.jsonl"),
            until=b"forged",
        )
    finally:
        stop.set()
        sender.join()
    assert b"forged" in shown
    for harmful in (b"\x1b]0", b"\x07", b"\nvision: error", "\x9b".encode(), "\u202e".encode()):
        assert harmful not in shown


ALLOWED = {  # text of the program's own
    "main.py": 2,  # the version and the help
    "config.py": 3,  # JSON and YAML
    "doctor.py": 1,  # JSON
    "completion.py": 1,  # a script
}


def test_commands_print_through_the_console():
    found = {}
    for path in (ROOT / "pipeline").rglob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and (
                getattr(node.func, "id", "") == "print"
                or (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
                == ("click", "echo")
            )
            and "printable" not in ast.dump(node)
        ]
        if calls and path.name != "console.py":
            found[path.name] = len(calls)
    assert found == ALLOWED
