"""`vision doctor`: what this machine has to run the pipeline with, and what it lacks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
    debug: opt.Debug = None,
) -> None:
    """Check this machine: processor, packages, models, cameras, compile cache, ROS 2."""
    from pipeline.cli import checks

    console.configure(quiet=True, debug=bool(debug))
    findings = checks.all_findings()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
        return
    rows = [(finding.state, finding.subject, finding.found) for finding in findings]
    console.show_table(("", "what", "found"), rows)
    for finding in findings:
        if finding.advice:
            print(f"\n{finding.subject}: {finding.advice}")
