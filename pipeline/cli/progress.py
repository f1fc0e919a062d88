"""Progress bars, a clean end by a signal, and downloads of models, for commands that compute."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import console
from pipeline.cli.console import EXIT_STOPPED
from pipeline.cli.signals import StopSignals
from pipeline.errors import ModelError
from pipeline.text.display import printable

if TYPE_CHECKING:
    from pipeline.inference.registry import ModelFile


Report = Callable[[str, int, int], None]
"""Called with the name of a job, the number of steps done, and the number of all steps."""


@contextlib.contextmanager
def interruptible(outcome: str = "nothing was written") -> Iterator[None]:
    """Leave the block at the first signal, cleaning up, and end the command with exit code 130.

    `outcome` tells the user what the command has achieved; nothing is printed if it is empty.
    """

    def tell() -> None:
        if outcome:
            console.say(f"stopped; {outcome}")

    with StopSignals(EXIT_STOPPED) as signals:
        signals.rescue = tell
        yield
        return
    tell()
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        console=Console(stderr=True),
        redirect_stdout=False,
    ) as bar:
        tasks = {}

        def report(job: str, done: int, total: int) -> None:
            if job not in tasks:
                tasks[job] = bar.add_task(printable(job), total=total)
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


_log = logging.getLogger(__name__)


def offer_models(names: Sequence[str], *, yes: bool) -> None:
    """Download those of `names` that are registered but not on this machine.

    Asks on a terminal, unless `yes`. Raises `ModelError` if the user does not agree or cannot
    be asked, and what `pipeline.zoo.pull` raises.
    """
    missing = [name for name in dict.fromkeys(names) if _is_missing(name)]
    if not missing:
        return
    from pipeline.inference.registry import registered_models

    size = sum(registered_models()[name].entry.size for name in missing)
    what = f"{', '.join(missing)} ({console.size_of(size)})"
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ModelError(
                f"model {what}: not on this machine yet; download it with 'vision models pull "
                f"{' '.join(missing)}', or give --yes"
            )
        if not _agreed(f"vision: {what} is not on this machine yet; download it now? [Y/n] "):
            raise ModelError(f"model {what}: not on this machine, and the download was declined")
    pull_models(missing)


def pull_models(names: Sequence[str], done: Callable[[Path], None] = lambda _: None) -> None:
    """Download each model unless it is on this machine; `done` is called with its path."""
    from pipeline.zoo.pull import pull, registered

    for name in names:
        registered(name)  # raises for an unknown name before anything is downloaded
    outcome = "complete models are kept"
    with interruptible(outcome), progress_bar(in_bytes=True) as bar:

        def report(file: ModelFile, there: int) -> None:
            bar(f"downloading {file.name}", there, file.bytes)

        for name in names:
            done(pull(name, say=_log.warning, report=report))


def _is_missing(name: str) -> bool:
    """Whether `name` is a registered model, not a path, that is not on this machine."""
    from pipeline.inference.registry import installed_models, is_name

    if not is_name(name) or name in installed_models():
        return False
    from pipeline.inference.registry import registered_models

    model = registered_models().get(name)
    return model is not None and not model.entry.is_bundled


def _agreed(question: str) -> bool:
    print(printable(question), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()  # empty at Ctrl-D, which means no
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")
