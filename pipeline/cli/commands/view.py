"""`vision view`: shows or records the results that other processes publish."""

from __future__ import annotations

from dataclasses import replace

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.settings import NO_MODEL, Settings


@pipeline_command("view")
def view(settings: Settings, signals: StopSignals) -> None:
    """Show published results: in a window, or in another output such as --jsonl or --record.

    Waits indefinitely for publishers that are not there yet. Of a camera without a detector it
    shows the plain frames.

    \b
    Examples:
      vision view --subscribe zmq+ipc://found
      vision view --subscribe zmq+ipc://found --record found.mp4
    Over a network, with the keys of 'vision keys':
      vision view --subscribe zmq+tcp://drone:5555 \\
          --key ground.key_secret --peer drone.key
    """
    from pipeline.cli.session import run_session
    from pipeline.cli.sources import open_results
    from pipeline.outputs import turned_on

    if not turned_on(settings):
        settings = replace(settings, show=True)
    require(settings, "subscribe")
    as_they_come = replace(settings, detector=NO_MODEL, classifier=NO_MODEL)
    run_session(as_they_come, signals, open_frames=open_results)
