"""`vision demo`: detects and classifies objects in the built-in scene."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console
from pipeline.cli.options import PATH, Option, pipeline_command
from pipeline.cli.signals import StopSignals
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.cli.reports.object_summary import ObjectSummary

LEAST_FRAMES = 5


@pipeline_command(
    "demo",
    Option(
        "--output",
        "-o",
        type=PATH,
        default=Path("vision-demo.jpg"),
        metavar="FILE.jpg",
        text="the annotated image",
    ),
)
def demo(settings: Settings, signals: StopSignals, output: Path) -> None:
    """Run on the built-in scene; print what was found and write an image of it.

    The scene pans over real photographs. It needs no camera and no files, and runs as fast as this
    machine can.

    \b
    Examples:
      vision demo
      vision demo --show --threads 2
    """
    from pipeline.cli.reports.object_summary import ObjectSummary, check_image_target
    from pipeline.cli.session import run_session

    settings = replace(settings, source="scene:?fps=0", every_frame=True)
    check_image_target(output)
    summary = ObjectSummary()
    run_session(settings, signals, [summary])
    _report(summary, output, settings.top)


def _report(summary: ObjectSummary, output: Path, top: int) -> None:
    seen = summary.most_seen()
    if not seen:
        console.say("nothing was found")
        return
    rows = [
        (
            found.label,
            str(found.frames),
            f"{found.best_score:.2f}",
            ", ".join(f"{name} {share:.2f}" for name, share in found.classes(top)) or "-",
        )
        for found in seen
        if found.frames >= LEAST_FRAMES
    ]
    console.show_table(("object", "frames", "best", "classes, by mean probability"), rows)
    if len(rows) < len(seen):
        console.show(f"and {len(seen) - len(rows)} more in fewer than {LEAST_FRAMES} frames each")
    summary.write_image(output)
    console.show("", f"annotated image: {os.path.realpath(output)}")
