"""What every subcommand shares with the terminal: log lines, errors on one line, exit codes."""

from __future__ import annotations

import errno
import logging
import math
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError, RunError, StageError, VisionError

EXIT_OK = 0
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2

ALIKE_SHOWN = 5  # of warnings of one kind, within
ALIKE_WITHIN_S = 60.0

_PLACES = ("pipeline", "nodes")


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the log lines of this package to standard error: what is worth knowing at once.

    Other packages' lines are shown with `debug` only.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    handler = _StandardError(all_of_them=debug)
    handler.setFormatter(_OneLine(debug))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for place in _PLACES:
        logging.getLogger(place).setLevel(level)


def finish() -> None:
    """Say what was held back until now. For the end of a command."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StandardError):
            handler.tell_hidden()


def report(error: BaseException) -> int:
    """Say what went wrong on one line, and in full with `--debug`; returns the exit code."""
    if logging.getLogger(_PLACES[0]).isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    while isinstance(error, StageError) and isinstance(error.__cause__, VisionError):
        error = error.__cause__  # it names its own subject; the stage says nothing more to a user
    message = " ".join(str(error).split())
    if isinstance(error, BrokenPipeError):
        return EXIT_OK  # whoever read our output has gone, which is no fault of ours
    if isinstance(error, (InputError, RunError)):
        say(f"error: {message}")
    elif isinstance(error, ImportError):
        say(f"error: a package does not load: {message}; {import_advice(error)}")
        return EXIT_BAD_INPUT
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        say(f"error: {error.filename or 'standard output'}: no space is left to write it")
    else:
        say(f"internal error: {type(error).__name__}: {message}; run again with --debug")
    return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAULT


def import_advice(error: ImportError) -> str:
    """What to do about a package that is missing, or misses a library of the system."""
    if "libGL" in str(error) or "libgthread" in str(error):
        return "on Debian and Ubuntu: sudo apt install libgl1 libglib2.0-0"
    if isinstance(error, ModuleNotFoundError):
        return f"pip install {error.name}"
    return "install it again; 'vision doctor' says what else is missing"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; piped elsewhere its lines are as long as they need to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def short(value: float) -> str:
    """A measured number with one digit behind the point, of a small one with two."""
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def say(message: str) -> None:
    """One line on standard error, beginning with the command's name."""
    print(f"vision: {message}", file=sys.stderr)


class _StandardError(logging.Handler):
    """Prints above a progress bar, which takes the place of `sys.stderr` while it is shown.

    Of one kind of warning, that is from one line of the code, a few are shown a minute, unless
    `all_of_them`; how many were not is said before the next other line, and by `tell_hidden`.
    """

    def __init__(self, *, all_of_them: bool = False) -> None:
        super().__init__()
        self._all_of_them = all_of_them
        self._kinds: dict[tuple[str, int], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and not self._all_of_them:
            kind = self._kinds.setdefault((record.pathname, record.lineno), _Kind())
            if record.created - kind.since_s > ALIKE_WITHIN_S:
                kind.since_s, kind.shown = record.created, 0
            if kind.shown == ALIKE_SHOWN:
                kind.hidden += 1
                return
            kind.shown += 1
        self.tell_hidden()
        print(self.format(record), file=sys.stderr)

    def tell_hidden(self) -> None:
        """One line for each kind of warning that was held back."""
        for kind in self._kinds.values():
            if kind.hidden:
                say(f"warning: ... and {kind.hidden} more like these; --debug shows all")
                kind.hidden = 0


@dataclass(slots=True)
class _Kind:
    """Warnings from one line of the code: since when, how many were shown and not shown."""

    since_s: float = -math.inf
    shown: int = 0
    hidden: int = 0


class _OneLine(logging.Formatter):
    """`vision: compiling ...`, with the level where it is a warning or worse."""

    def __init__(self, debug: bool) -> None:
        super().__init__("%(asctime)s %(threadName)s %(name)s: %(message)s" if debug else None)

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"vision: {level}{super().format(record)}"
