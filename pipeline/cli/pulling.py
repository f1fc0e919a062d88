"""Fetching models for a command: with a progress bar, and after a question where one is due."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli import console
from pipeline.cli.signals import StopSignals
from pipeline.cli.waiting import EXIT_STOPPED
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.inference.registry import ModelFile

_log = logging.getLogger(__name__)


def offer_models(names: Sequence[str], *, yes: bool) -> None:
    """Fetch those of `names` that the registry knows and that are not on this machine.

    With `yes` without a question; else a terminal is asked. Raises `ModelError` where neither
    says yes, and what `pipeline.zoo.hub.pull` raises.
    """
    missing = [name for name in dict.fromkeys(names) if _is_missing(name)]
    if not missing:
        return
    from pipeline.inference.registry import registered_models

    size = sum(registered_models()[name].entry.size for name in missing) / 1e6
    what = f"{', '.join(missing)} ({size:.1f} MB)"
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ModelError(
                f"model {what}: not on this machine yet; fetch it with 'vision models pull "
                f"{' '.join(missing)}', or give --yes"
            )
        if not _agreed(f"vision: {what} is not on this machine yet; fetch it now? [Y/n] "):
            raise ModelError(f"model {what}: not on this machine, and not to be fetched")
    pull_models(missing)


def pull_models(names: Sequence[str], done: Callable[[Path], None] = lambda _: None) -> None:
    """Fetch each model unless it is here, showing how far it has come; `done` hears of its path."""
    from pipeline.zoo.hub.pull import pull, registered

    for name in names:
        registered(name)  # one that there is not is said before any is fetched
    with StopSignals(), _download_bar() as report:
        for name in names:
            done(pull(name, say=_log.warning, report=report))
        return
    console.say("stopped; what came so far is kept for the next pull")
    raise typer.Exit(EXIT_STOPPED)


def _is_missing(name: str) -> bool:
    """Whether a name, not a path, is one to be pulled."""
    from pipeline.inference.locate import installed_models, is_name

    if not is_name(name) or name in installed_models():
        return False
    from pipeline.inference.registry import registered_models

    model = registered_models().get(name)
    return model is not None and not model.entry.travels


def _agreed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()  # empty at Ctrl-D, which agrees to nothing
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")


@contextmanager
def _download_bar() -> Iterator[Callable[[ModelFile, int], None]]:
    """A bar a file on a terminal; elsewhere one line a file."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        tasks: dict[str, Any] = {}

        def report(file: ModelFile, there: int) -> None:
            if file.name not in tasks:
                tasks[file.name] = bar.add_task(file.name, total=file.bytes)
            bar.update(tasks[file.name], completed=there)

        yield report


class _Lines:
    """Names each file once, when it begins."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, file: ModelFile, there: int) -> None:
        if file.name not in self._known:
            self._known.add(file.name)
            size = f"{file.bytes / 1e6:.1f} MB" if file.bytes >= 1e5 else f"{file.bytes} bytes"
            console.say(f"fetching {file.name} ({size})")
