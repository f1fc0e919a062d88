"""What commands share that work through a known number of steps and then write a file."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

import typer

from pipeline.cli import console
from pipeline.cli.signals import StopSignals

EXIT_STOPPED = 130  # what shells give a program that was interrupted

Report = Callable[[str, int, int], None]
"""What is being done, how many steps of it are done, and how many there are."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def interruptible(outcome: str = "nothing was written") -> Iterator[None]:
    """Leaves the block at the first signal, cleaning up, and ends the command with code 130.

    `outcome` is what the user is told to have of it.
    """
    with StopSignals():
        yield
        return
    console.say(f"stopped; {outcome}")
    raise typer.Exit(EXIT_STOPPED)


@contextlib.contextmanager
def progress_bar() -> Iterator[Report]:
    """Shows on a terminal how far each job has come; elsewhere one log line a job."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        tasks = {}

        def report(job: str, done: int, total: int) -> None:
            if job not in tasks:
                tasks[job] = bar.add_task(job, total=total)
            bar.update(tasks[job], completed=done, total=total)

        yield report


class _Lines:
    """Names each job once, when it begins."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, job: str, done: int, total: int) -> None:
        if job not in self._known:
            self._known.add(job)
            _log.info("%s (%d)", job, total)
