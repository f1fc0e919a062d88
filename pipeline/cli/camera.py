"""`vision camera`: the frames of a source, published for other processes to work on."""

from __future__ import annotations

from msgspec.structs import replace

from pipeline.cli import options as opt
from pipeline.cli.signals import StopSignals


def camera(
    source: opt.Source = None,
    publish: opt.Publish = None,
    camera: opt.Camera = None,
    payload: opt.Payload = None,
    quality: opt.Quality = None,
    await_subscriber: opt.AwaitSubscriber = None,
    key: opt.Key = None,
    peer: opt.Peer = None,
    server: opt.Server = None,
    insecure: opt.Insecure = None,
    max_frame_mb: opt.MaxFrameMb = None,
    every_frame: opt.EveryFrame = None,
    max_frames: opt.MaxFrames = None,
    duration: opt.Duration = None,
    show: opt.Show = None,
    record: opt.Record = None,
    stats: opt.Stats = None,
    open_timeout: opt.OpenTimeout = None,
    read_timeout: opt.ReadTimeout = None,
    retry: opt.Retry = None,
    reconnect: opt.Reconnect = None,
    isolate: opt.Isolate = None,
    width: opt.Width = None,
    height: opt.Height = None,
    fps: opt.Fps = None,
    fourcc: opt.FourCC = None,
    config: opt.Config = None,
    quiet: opt.Quiet = None,
    debug: opt.Debug = None,
) -> None:
    """Publish the frames of SOURCE for other processes.

    Files and pictures are played at their own rate, as a camera would give them, or at --fps.

    \b
    Examples:
      vision camera 0 --publish zmq+ipc:///tmp/front
      vision camera drive.mp4 --publish zmq+ipc:///tmp/front --await-subscriber
      vision camera 0 --publish 'zmq+tcp://*:5555' --key drone.key_secret --peer ground.key
    """
    settings = opt.settings_of(locals())
    with StopSignals() as signals:
        from pipeline.capture.open import is_stored
        from pipeline.capture.paced import Paced
        from pipeline.cli.inputs import open_source
        from pipeline.cli.outputs import Outputs
        from pipeline.cli.session import pass_on
        from pipeline.source import Source

        opt.require(settings, "source", "publish")
        # What is stored is not asked for a rate but played at it.
        asked = replace(settings, fps=None) if is_stored(str(settings.source)) else settings
        with Outputs(settings, with_results=False) as outputs, open_source(asked) as opened:
            if isinstance(opened, Source) and not opened.live:  # a file, or pictures
                pass_on(Paced(opened, settings.fps), settings, outputs, signals)
            else:
                pass_on(opened, settings, outputs, signals)
