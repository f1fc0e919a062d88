"""Figures as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.footprint import machine


def report(figures: list[Figure], path: Path) -> None:
    """Print the figures and write them, with the machine, to a file."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(figures, console)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "figures": [{**asdict(figure), "reached": figure.reached} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written to {path}")


def show(figures: list[Figure], console: Console) -> None:
    table = Table("figure", "measured", "target", "", "detail")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:.3g}"
        verdict = {True: "[green]yes", False: "[red]NO", None: ""}[figure.reached]
        table.add_row(
            figure.name, f"{figure.value:.3g} {figure.unit}", target, verdict, figure.detail
        )
    console.print(table)
