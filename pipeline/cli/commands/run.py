"""`vision run`: detects and classifies the objects of a source and writes the chosen outputs."""

from __future__ import annotations

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.settings import Settings


@pipeline_command("run")
def run(settings: Settings, signals: StopSignals) -> None:
    """Detect and classify the objects in SOURCE.

    Each option can also be set in a --config file or in the environment: --score is the key
    score and the variable VISION_SCORE. 'vision config' shows what is in effect.

    \b
    Examples:
      vision run 0 --show                              a camera, in a window
      vision run drive.mp4 --record out.mp4            a video, annotated
      vision run rtsp://10.0.0.7/front --jsonl -       results as JSON lines
      vision run 0 --publish zmq+ipc://found           for other processes
      vision run zmq+ipc://front --show --retry        from 'vision camera'
    """
    from pipeline.cli.session import run_session

    require(settings, "source")
    run_session(settings, signals)
