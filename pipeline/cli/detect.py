"""`vision detect`: another process's frames through the detector and the classifier."""

from __future__ import annotations

from pipeline.cli import options as opt
from pipeline.cli.signals import StopSignals
from pipeline.errors import ConfigError


def detect(
    subscribe: opt.Subscribe = None,
    publish: opt.Publish = None,
    group: opt.Group = None,
    detector: opt.Detector = None,
    classifier: opt.Classifier = None,
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    score: opt.Score = None,
    nms: opt.Nms = None,
    nms_kind: opt.NmsKind = None,
    top: opt.Top = None,
    threads: opt.Threads = None,
    payload: opt.Payload = None,
    quality: opt.Quality = None,
    max_frame_mb: opt.MaxFrameMb = None,
    await_subscriber: opt.AwaitSubscriber = None,
    key: opt.Key = None,
    peer: opt.Peer = None,
    server: opt.Server = None,
    insecure: opt.Insecure = None,
    every_frame: opt.EveryFrame = None,
    max_frames: opt.MaxFrames = None,
    duration: opt.Duration = None,
    show: opt.Show = None,
    record: opt.Record = None,
    jsonl: opt.Jsonl = None,
    stats: opt.Stats = None,
    config: opt.Config = None,
    quiet: opt.Quiet = None,
    debug: opt.Debug = None,
) -> None:
    """Detect and name the objects in the frames that other processes publish.

    Waits for a camera that is not there yet, and for one that has gone. Publishes each frame, where
    somebody wants it, and its result.

    \b
    Examples:
      vision detect --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/found
      vision detect --subscribe zmq+ipc:///tmp/front --jsonl found.jsonl
    Two that take turns on the frames of one camera:
      vision detect --group crew --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/one
      vision detect --group crew --subscribe zmq+ipc:///tmp/front --publish zmq+ipc:///tmp/two
    One that waits for cameras to come to it, with --publish 'zmq+ipc:///tmp/meeting?connect':
      vision detect --subscribe 'zmq+ipc:///tmp/meeting?bind' --jsonl -
    """
    settings = opt.settings_of(locals())
    if settings.group and settings.every_frame:
        raise ConfigError("--group: its members take turns on frames; leave out --every-frame")
    with StopSignals() as signals:
        from pipeline.cli.inputs import open_frames
        from pipeline.cli.session import run_session

        opt.require(settings, "subscribe")
        run_session(settings, signals, open_frames=open_frames)
