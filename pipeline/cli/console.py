"""Log lines, one-line errors, tables and exit codes of all subcommands."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.shortage import shortage
from pipeline.errors import InputError, RunError, StageError, VisionError, one_line
from pipeline.text.display import printable, printable_lines

EXIT_OK = 0
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 130  # what shells report for a program that was interrupted

REPEATS_SHOWN = 5  # warnings from one line of code within
REPEATS_WITHIN_S = 60.0

_PACKAGES = ("pipeline", "nodes")


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the log lines of this package to standard error.

    Of other packages, only warnings and errors are shown.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    handler = _StandardError(show_repeats=debug)
    handler.setFormatter(_OneLine(debug))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(level)


def finish() -> None:
    """Print how many warnings were left out. Called at the end of a command."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StandardError):
            handler.print_hidden()


def report(error: BaseException) -> int:
    """Print an error on one line, with its traceback under `--debug`; returns the exit code."""
    if logging.getLogger(_PACKAGES[0]).isEnabledFor(logging.DEBUG):
        _tell(printable_lines("".join(traceback.format_exception(error))))
    while isinstance(error, StageError) and isinstance(error.__cause__, VisionError):
        error = error.__cause__  # it names its subject, and the stage adds nothing
    message = one_line(error)
    if isinstance(error, BrokenPipeError):
        return EXIT_OK  # the reader of our output has gone, which is not an error
    if lacking := shortage(error):
        say(f"error: {lacking}")
        return EXIT_FAULT
    if isinstance(error, (InputError, RunError)):
        say(f"error: {message}")
    elif isinstance(error, ImportError):
        say(f"error: a package cannot be imported: {message}; {import_advice(error)}")
        return EXIT_BAD_INPUT
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        say(f"error: {error.filename or 'standard output'}: no space left on the device")
    else:
        say(f"internal error: {type(error).__name__}: {message}; run again with --debug")
    return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAULT


def import_advice(error: ImportError) -> str:
    """What to do about a package that is missing or lacks a system library."""
    if any(f"lib{name}" in str(error) for name in ("GL", "glib", "gthread", "xcb", "X", "SM")):
        return "on Debian and Ubuntu: sudo apt install libgl1 libglib2.0-0 libsm6 libxext6 libxcb1"
    if isinstance(error, ModuleNotFoundError):
        return f"pip install {error.name}"
    return "reinstall it; 'vision doctor' shows what else is missing"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; if standard output is not a terminal, lines are not wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(printable(column), overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def show(*lines: str) -> None:
    """Print lines on standard output."""
    for line in lines:
        print(printable(line))


def show_path(path: Path) -> None:
    """Print the path of a file on standard output: for programs as it is, on a terminal escaped."""
    if sys.stdout.isatty():
        show(str(path))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.flush()


def short(value: float) -> str:
    """A measured number with one decimal, or two if it is below 2."""
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def size_of(count: int) -> str:
    """A number of bytes for people, such as `24.1 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"


def say(message: str) -> None:
    """Print one line on standard error that begins with the name of the command."""
    _tell(f"vision: {printable(message)}")


def _tell(lines: str) -> None:
    """Print on standard error. If that has gone, as with a terminal that was closed, go on."""
    with contextlib.suppress(OSError):
        print(lines, file=sys.stderr)


class _StandardError(logging.Handler):
    """Prints log lines to `sys.stderr`, which a progress bar replaces while it is shown.

    Repeated warnings from one line of code are limited to a few per minute, unless `show_repeats`.
    The number of those left out is printed before the next line that is shown.
    """

    def __init__(self, *, show_repeats: bool = False) -> None:
        super().__init__()
        self._show_repeats = show_repeats
        self._kinds: dict[tuple[str, int], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and not self._show_repeats:
            kind = self._kinds.setdefault((record.pathname, record.lineno), _Kind())
            if record.created - kind.since_s > REPEATS_WITHIN_S:
                kind.since_s, kind.shown = record.created, 0
            if kind.shown == REPEATS_SHOWN:
                kind.hidden += 1
                return
            kind.shown += 1
        self.print_hidden()
        _tell(self.format(record))

    def print_hidden(self) -> None:
        """Print one line for each kind of warning that was left out."""
        for kind in self._kinds.values():
            if kind.hidden:
                say(f"warning: ... and {kind.hidden} more like these; --debug shows all")
                kind.hidden = 0


@dataclass(slots=True)
class _Kind:
    """Warnings from one line of code: since when, and how many were shown and left out."""

    since_s: float = -math.inf
    shown: int = 0
    hidden: int = 0


class _OneLine(logging.Formatter):
    """Formats lines as `vision: compiling ...`, with the level for warnings and errors."""

    def __init__(self, debug: bool) -> None:
        super().__init__("%(asctime)s %(threadName)s %(name)s: %(message)s" if debug else None)

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"vision: {level}{super().format(record)}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - of the base class
        return printable_lines(super().formatException(ei))
