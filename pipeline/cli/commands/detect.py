"""`vision detect`: detects and classifies objects in frames that other processes publish."""

from __future__ import annotations

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.errors import ConfigError
from pipeline.settings import Settings


@pipeline_command("detect")
def detect(settings: Settings, signals: StopSignals) -> None:
    """Detect and classify the objects in published frames.

    Waits indefinitely for cameras that are not there yet or have stopped. With --publish, sends
    each result, and its frame if a subscriber wants it.

    \b
    Examples:
      vision detect --subscribe zmq+ipc://front --jsonl found.jsonl
      vision detect --subscribe zmq+ipc://front --publish zmq+ipc://found
    Several detectors that share the frames of one camera, each started with:
      vision detect --group crew --subscribe zmq+ipc://front --jsonl -
    A detector that several cameras connect to:
      vision detect --subscribe 'zmq+ipc://hub?bind' --jsonl -
      vision camera 0 --publish 'zmq+ipc://hub?connect'
    """
    if settings.group and settings.every_frame:
        raise ConfigError("--group: its members share the frames; leave out --every-frame")
    from pipeline.cli.session import run_session
    from pipeline.cli.sources import open_frames

    require(settings, "subscribe")
    run_session(settings, signals, open_frames=open_frames)
