"""`vision doctor`: reports whether this machine and the installation are ready to run."""

from __future__ import annotations

import json
import logging

from pipeline.cli import console
from pipeline.cli.options import Option, command


@command("doctor", Option("--json", "as_json", is_flag=True, text="print the findings as JSON"))
def doctor(as_json: bool) -> None:
    """Check this machine: processor, packages, models, cameras, compile cache, ROS 2.

    Prints what was found, and advice for each problem. The exit code is 0 in any case.
    """
    from pipeline.cli.reports import diagnostics

    if not logging.getLogger("pipeline").isEnabledFor(logging.DEBUG):
        console.configure(quiet=True)
    findings = diagnostics.all_findings()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
        return
    rows = [(finding.state, finding.subject, finding.found) for finding in findings]
    console.show_table(("", "what", "found"), rows)
    for finding in findings:
        if finding.advice:
            console.show("", f"{finding.subject}: {finding.advice}")
