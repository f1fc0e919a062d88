"""`vision demo`: real objects found in real photographs, with nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.signals import StopSignals

if TYPE_CHECKING:
    from pipeline.cli.findings import Findings

FRAMES = 300
NAMES = 5
LEAST_FRAMES = 5


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="the annotated picture", metavar="FILE.jpg"),
    ] = Path("vision-demo.jpg"),
    detector: opt.Detector = None,
    classifier: opt.Classifier = None,
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    score: opt.Score = None,
    nms: opt.Nms = None,
    nms_kind: opt.NmsKind = None,
    threads: opt.Threads = None,
    max_frames: opt.MaxFrames = FRAMES,
    show: opt.Show = None,
    record: opt.Record = None,
    jsonl: opt.Jsonl = None,
    stats: opt.Stats = None,
    quiet: opt.Quiet = None,
    debug: opt.Debug = None,
) -> None:
    """Run over the built-in scene; print what was found and write a picture of it."""
    # As fast as this machine can, and every frame, so that the rate says what it can do.
    source, every_frame = "scene:?fps=0", True
    settings = opt.settings_of({**locals(), "top": NAMES})
    with StopSignals() as signals:
        from pipeline.cli.findings import Findings, check_picture_target
        from pipeline.cli.session import run_session

        check_picture_target(output)
        findings = Findings()
        run_session(settings, signals, [findings])
        _report(findings, output)


def _report(findings: Findings, output: Path) -> None:
    seen = findings.most_seen()
    if not seen:
        console.say("nothing was found")
        return
    rows = [
        (
            found.label,
            str(found.frames),
            f"{found.best_score:.2f}",
            ", ".join(f"{name} {share:.2f}" for name, share in found.finer_names(NAMES)) or "-",
        )
        for found in seen
        if found.frames >= LEAST_FRAMES
    ]
    console.show_table(("object", "frames", "best", "finer names, by mean probability"), rows)
    if len(rows) < len(seen):
        print(f"and {len(seen) - len(rows)} more in fewer than {LEAST_FRAMES} frames each")
    findings.write_picture(output)
    print(f"\nannotated picture: {output.resolve()}")
