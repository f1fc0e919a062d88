"""`vision choose`: finds the network of a family that fits this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.option_checks import check_new_files
from pipeline.cli.options import FIGURES, PATH, Option, command
from pipeline.cli.progress import interruptible, progress_bar
from pipeline.cli.reports.choice_report import CLASSIFY, DETECT, ChoiceReport
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.zoo.candidates import Candidate

OPTIONS = (
    Option(
        "--task",
        default=CLASSIFY,
        metavar="classify|detect",
        text="MobileNets that classify, or YOLOv4-tiny networks that detect",
    ),
    Option(
        "--budget-ms",
        type=float,
        metavar="MS",
        text="name the most accurate network that takes no longer",
    ),
    Option("--int8", is_flag=True, text="measure the quantized networks, not the float ones"),
    Option("--classes", metavar="N[,N...]", text="number of classes [1000; for detectors 1,80]"),
    Option(
        "--sizes", metavar="N[,N...]", text="input sizes of detectors in pixels [256,288,...,608]"
    ),
    Option("--only", metavar="TEXT", text="measure only networks with this in their name"),
    Option(
        "--all",
        "everything",
        is_flag=True,
        text="also show networks that a faster one equals in accuracy",
    ),
    Option("--fresh", is_flag=True, text="measure again instead of using stored measurements"),
    Option("--plot", type=PATH, metavar="FILE.png", text="draw accuracy over latency"),
)


@command("choose", *OPTIONS, FIGURES)
def choose(
    task: str,
    budget_ms: float | None,
    int8: bool,
    classes: str | None,
    sizes: str | None,
    only: str | None,
    everything: bool,
    fresh: bool,
    plot: Path | None,
    json_file: Path | None,
    threads: int | None,
) -> None:
    """Measure a family of networks on this machine and show the best trade-offs.

    Builds every network with random weights and times it as 'vision run' would run it. The
    accuracy is the published one of the trained float network. Measurements are stored, so a
    second call answers at once.

    \b
    Examples:
      vision choose --budget-ms 3 --int8
    For a detector with two classes:
      vision choose --task detect --classes 2 --int8 --budget-ms 10
    """
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
    from pipeline.inference.processor import available_threads
    from pipeline.zoo.candidates import measure_all
    from pipeline.zoo.latency import LatencyCache, this_machine

    threads = threads or available_threads()
    machine = this_machine(threads)
    cache = LatencyCache(machine)
    cache.load()
    with interruptible("finished measurements are stored"), progress_bar() as progress:
        choices = measure_all(
            candidates, cache, threads=threads, int8=int8, fresh=fresh, report=progress
        )
    return ChoiceReport(task, int8, budget_ms, machine, choices)


def _check(budget_ms: float | None, plot: Path | None, json_file: Path | None) -> None:
    """Check the options before anything is measured."""
    if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
        raise ConfigError(f"--budget-ms: expected milliseconds above 0, got {budget_ms}")
    if plot is not None:
        from pipeline.zoo.plots import check_plot_path

        check_plot_path(plot)
    check_new_files({"--json": json_file, "--plot": plot}, [])


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers separated by commas."""
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(
            f"{option}: expected whole numbers separated by commas, got '{text}'"
        ) from None


def _candidates(
    task: str, classes: tuple[int, ...] | None, sizes: tuple[int, ...] | None, only: str | None
) -> list[Candidate]:
    from pipeline.zoo import candidates as zoo

    if task == DETECT:
        found = zoo.detectors(sizes or zoo.DETECTOR_SIZES, classes or zoo.DETECTOR_CLASSES)
    elif task == CLASSIFY:
        if sizes is not None:
            raise ConfigError("--sizes: applies to detectors; a MobileNet has its size in its name")
        if classes is not None and len(classes) != 1:
            raise ConfigError(f"--classes: expected one number for classifiers, got {len(classes)}")
        found = zoo.classifiers(*(classes or ()))
    else:
        raise ConfigError(f"--task: expected {CLASSIFY} or {DETECT}, got '{task}'")
    kept = [candidate for candidate in found if (only or "").lower() in candidate.name]
    if not kept:
        names = ", ".join(candidate.name for candidate in found)
        raise ConfigError(f"--only: no network's name contains '{only}'; the names are {names}")
    return kept
