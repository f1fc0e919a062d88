"""`vision detect`: detects and classifies objects in frames that other processes publish."""

from __future__ import annotations

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.errors import ConfigError
from pipeline.settings import Settings


@pipeline_command("detect")
def detect(settings: Settings) -> None:
    """Detect and classify the objects in published frames.

    Waits indefinitely for cameras that are not there yet or have stopped. With --publish, sends
    each result, and its frame where a subscriber wants it.

    \b
    Examples:
      vision detect --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/found
      vision detect --subscribe zmq+ipc:///tmp/front --jsonl found.jsonl
    Two detectors that share the frames of one camera:
      vision detect --group crew --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/one
      vision detect --group crew --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/two
    A detector that cameras connect to with --publish 'zmq+ipc:///tmp/meeting?connect':
      vision detect --subscribe 'zmq+ipc:///tmp/meeting?bind' --jsonl -
    """
    if settings.group and settings.every_frame:
        raise ConfigError("--group: its members share the frames; leave out --every-frame")
    with StopSignals() as signals:
        from pipeline.cli.inputs import open_frames
        from pipeline.cli.session import run_session

        require(settings, "subscribe")
        run_session(settings, signals, open_frames=open_frames)
