"""Progress bars, and a clean end by a signal, for commands that compute and then write a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

from pipeline.cli import console
from pipeline.cli.console import EXIT_STOPPED
from pipeline.cli.signals import StopSignals

Report = Callable[[str, int, int], None]
"""Called with the name of a job, the number of steps done, and the number of all steps."""


@contextlib.contextmanager
def interruptible(outcome: str = "nothing was written") -> Iterator[None]:
    """Leave the block at the first signal, cleaning up, and end the command with exit code 130.

    `outcome` tells the user what the command has achieved.
    """
    with StopSignals():
        yield
        return
    console.say(f"stopped; {outcome}")
    raise click.exceptions.Exit(EXIT_STOPPED)


@contextlib.contextmanager
def progress_bar(*, in_bytes: bool = False) -> Iterator[Report]:
    """Show a bar for each job on a terminal, elsewhere print one line for each job.

    `in_bytes` says that the steps of a job are bytes.
    """
    if not sys.stderr.isatty():
        yield _line_reporter(in_bytes)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        if in_bytes
        else (MofNCompleteColumn(),)
    )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=Console(stderr=True),
        redirect_stdout=False,
    ) as bar:
        tasks = {}

        def report(job: str, done: int, total: int) -> None:
            if job not in tasks:
                tasks[job] = bar.add_task(job, total=total)
            bar.update(tasks[job], completed=done, total=total)

        yield report


def _line_reporter(in_bytes: bool) -> Report:
    """Print the name and the size of each job once, when it begins."""
    known: set[str] = set()

    def report(job: str, done: int, total: int) -> None:
        if job not in known:
            known.add(job)
            console.say(f"{job} ({console.size_of(total) if in_bytes else total})")

    return report
