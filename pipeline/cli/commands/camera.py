"""`vision camera`: publishes the frames of a source for other processes."""

from __future__ import annotations

from dataclasses import replace

from pipeline.cli.options import pipeline_command, require
from pipeline.cli.signals import StopSignals
from pipeline.settings import Settings


@pipeline_command("camera")
def camera(settings: Settings) -> None:
    """Publish the frames of SOURCE for other processes.

    Files and images are played at their own rate, like a live camera, or at --fps.

    \b
    Examples:
      vision camera 0 --publish zmq+ipc:///tmp/front
      vision camera drive.mp4 --publish zmq+ipc:///tmp/front --await-subscriber
    Over a network, with the keys of 'vision keys':
      vision camera 0 --publish 'zmq+tcp://*:5555' \\
          --key drone.key_secret --peer ground.key
    """
    with StopSignals() as signals:
        from pipeline.capture.open import is_stored
        from pipeline.capture.paced import Paced
        from pipeline.cli.inputs import open_source
        from pipeline.cli.outputs import Outputs
        from pipeline.cli.session import pass_on
        from pipeline.source import Source

        require(settings, "source", "publish")
        # For a recording, --fps is the rate to play it at, not one to request.
        requested = replace(settings, fps=None) if is_stored(str(settings.source)) else settings
        with Outputs(settings, with_results=False) as outputs, open_source(requested) as opened:
            if isinstance(opened, Source) and not opened.live:  # a video file or images
                pass_on(Paced(opened, settings.fps), settings, outputs, signals)
            else:
                pass_on(opened, settings, outputs, signals)
