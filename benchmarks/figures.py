"""Measured figures, their table and JSON file, and the command line of benchmarks.

Two ways to do the same job are measured in turns, so that a drift of the machine cancels out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.errors import VisionError
from pipeline.inference.processor import available_threads, processor


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is its least or largest value (`at_least`); None for none."""

    name: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = True
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def report(figures: list[Figure], path: Path) -> None:
    """Print the figures, and write them and the machine to a JSON file."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("figure", "measured", "target", "", "detail")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:.3g}"
        verdict = {True: "[green]yes", False: "[red]NO", None: ""}[figure.reached]
        table.add_row(
            figure.name, f"{figure.value:.3g} {figure.unit}", target, verdict, figure.detail
        )
    console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": {
            "cpu": processor().name,
            "cores": available_threads(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30),
            "python": sys.version.split()[0],
        },
        "figures": [{**asdict(figure), "reached": figure.reached} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written to {path}")


@dataclass(frozen=True)
class Pair:
    """Median seconds of both ways, and the median of the ratios first / second, pair by pair."""

    first_s: float
    second_s: float
    ratio: float
    lowest: float
    highest: float


def timed(job: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def measure_pair(
    first: Callable[[], object], second: Callable[[], object], rounds: int, warm_up: bool = True
) -> Pair:
    """Run both in turn, `rounds` times, after one uncounted turn each; they take turns to start."""
    if warm_up:
        first()
        second()
    firsts, seconds = [], []
    for i in range(rounds):
        if i % 2:
            seconds.append(timed(second))
            firsts.append(timed(first))
        else:
            firsts.append(timed(first))
            seconds.append(timed(second))
    ratios = [a / b for a, b in zip(firsts, seconds, strict=True)]
    return Pair(
        statistics.median(firsts),
        statistics.median(seconds),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


Group = Callable[[argparse.Namespace], Iterable[Figure]]


def group_parser(
    module: str, description: str | None, json_name: str, groups: Collection[str]
) -> argparse.ArgumentParser:
    """The options of every benchmark: where to write, and which groups to run."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    path = Path(f"build/{json_name}.json")
    parser.add_argument("--json", type=Path, default=path, help="where to write")
    parser.add_argument(
        "--only", nargs="*", choices=list(groups), default=list(groups), help="groups to run"
    )
    return parser


def run_groups(groups: Mapping[str, Group], arguments: argparse.Namespace) -> list[Figure]:
    """Measure the groups of `--only` and report them; exits with code 2 on an error."""
    figures: list[Figure] = []
    try:
        for name in arguments.only:
            print(f"measuring {name} ...", file=sys.stderr)
            figures += groups[name](arguments)
    except VisionError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        sys.exit(2)
    report(figures, arguments.json)
    return figures
