"""Measured figures, their table and their JSON file."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.inference.processor import processor
from pipeline.inference.session import available_threads


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
