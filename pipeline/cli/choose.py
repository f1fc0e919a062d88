"""`vision choose`: which network of a family fits this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.choice_report import CLASSIFY, DETECT, ChoiceReport
from pipeline.cli.targets import check_new_files
from pipeline.cli.waiting import interruptible, progress_bar
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.zoo.selection.candidates import Candidate

Task = Annotated[
    str, typer.Option(metavar="classify|detect", help="MobileNets that classify, or YOLOv4-tiny")
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="MS", help="name the most accurate one that takes no longer", show_default=False
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="measure the quantised networks, not the float ones")
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="your own class count [1000; for detectors 1,80]",
        show_default=False,
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="detectors' input sizes in pixels [256,288,...,608]",
        show_default=False,
    ),
]
Only = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="only members with this in their name", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="also show members that a faster one beats")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure again what is known of this machine")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="draw accuracy over latency", show_default=False),
]


def choose(
    task: Task = CLASSIFY,
    budget_ms: Budget = None,
    int8: Int8 = False,
    threads: opt.Cores = None,
    classes: Classes = None,
    sizes: Sizes = None,
    only: Only = None,
    everything: All = False,
    fresh: Fresh = False,
    plot: Plot = None,
    json_file: opt.Figures = None,
    debug: opt.Debug = None,
) -> None:
    """Measure a family of networks on this machine and show which are worth their time.

    Every member is built with random weights and timed as `vision run` would run it. Accuracy is
    the published one of the trained float network. Figures are kept: a second call answers at once.

    Examples: `vision choose --budget-ms 3 --int8`; for a detector of two classes
    `vision choose --task detect --classes 2 --int8 --budget-ms 10`.
    """
    console.configure(debug=bool(debug))
    _check(budget_ms, plot, json_file)
    candidates = _candidates(task, _numbers("--classes", classes), _numbers("--sizes", sizes), only)
    report = _measure(candidates, task, threads, budget_ms, int8=int8, fresh=fresh)
    report.show(everything=everything)
    if json_file is not None:
        report.write_json(json_file)
    if plot is not None:
        report.draw(plot)


def _measure(
    candidates: list[Candidate],
    task: str,
    threads: int | None,
    budget_ms: float | None,
    *,
    int8: bool,
    fresh: bool,
) -> ChoiceReport:
    from pipeline.inference.session import available_threads
    from pipeline.zoo.selection.candidates import measure_all
    from pipeline.zoo.selection.latency import LatencyCache, this_machine

    threads = threads or available_threads()
    machine = this_machine(threads)
    cache = LatencyCache(machine)
    cache.load()
    with interruptible("what was measured is kept"), progress_bar() as progress:
        choices = measure_all(
            candidates, cache, threads=threads, int8=int8, fresh=fresh, report=progress
        )
    return ChoiceReport(task, int8, budget_ms, machine, choices)


def _check(budget_ms: float | None, plot: Path | None, json_file: Path | None) -> None:
    """Everything that could be wrong with the options, before anything is measured."""
    if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
        raise ConfigError(f"--budget-ms: expected milliseconds above 0, got {budget_ms}")
    if plot is not None:
        from pipeline.zoo.plots import check_plot_path

        check_plot_path(plot)
    check_new_files({"--json": json_file, "--plot": plot}, [])


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers apart by commas."""
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(
            f"{option}: expected whole numbers apart by commas, got '{text}'"
        ) from None


def _candidates(
    task: str, classes: tuple[int, ...] | None, sizes: tuple[int, ...] | None, only: str | None
) -> list[Candidate]:
    from pipeline.zoo.selection import candidates as zoo

    if task == DETECT:
        found = zoo.detectors(sizes or zoo.DETECTOR_SIZES, classes or zoo.DETECTOR_CLASSES)
    elif task == CLASSIFY:
        if sizes is not None:
            raise ConfigError("--sizes: is for detectors; a MobileNet's size is in its name")
        if classes is not None and len(classes) != 1:
            raise ConfigError(f"--classes: expected one number for classifiers, got {len(classes)}")
        found = zoo.classifiers(*(classes or ()))
    else:
        raise ConfigError(f"--task: expected {CLASSIFY} or {DETECT}, got '{task}'")
    kept = [candidate for candidate in found if (only or "").lower() in candidate.name]
    if not kept:
        names = ", ".join(candidate.name for candidate in found)
        raise ConfigError(f"--only: no member's name holds '{only}'; there are {names}")
    return kept
