"""`vision camera`: publishes the frames of a source for other processes."""

from __future__ import annotations

from dataclasses import replace

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.settings import NO_MODEL, Settings


@pipeline_command("camera")
def camera(settings: Settings, signals: StopSignals) -> None:
    """Publish the frames of SOURCE for other processes.

    Files and images are played at their own rate, like a live camera, or at --fps.

    \b
    Examples:
      vision camera 0 --publish zmq+ipc://front
      vision camera drive.mp4 --publish zmq+ipc://front --await-subscriber
    Over a network, with the keys of 'vision keys':
      vision camera 0 --publish 'zmq+tcp://*:5555' \\
          --key drone.key_secret --peer ground.key
    """
    from pipeline.cli.session import run_session
    from pipeline.cli.sources import open_from_settings

    require(settings, "source", "publish")
    frames_alone = replace(settings, detector=NO_MODEL, classifier=NO_MODEL)
    run_session(
        frames_alone,
        signals,
        open_frames=lambda settings: open_from_settings(settings, real_time=True),
    )
