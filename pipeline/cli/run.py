"""`vision run`: a source through the detector and the classifier to the chosen outputs."""

from __future__ import annotations

from pipeline.cli import options as opt
from pipeline.cli.signals import StopSignals


def run(
    source: opt.Source = None,
    detector: opt.Detector = None,
    classifier: opt.Classifier = None,
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    score: opt.Score = None,
    nms: opt.Nms = None,
    nms_kind: opt.NmsKind = None,
    top: opt.Top = None,
    threads: opt.Threads = None,
    every_frame: opt.EveryFrame = None,
    max_frames: opt.MaxFrames = None,
    duration: opt.Duration = None,
    show: opt.Show = None,
    record: opt.Record = None,
    jsonl: opt.Jsonl = None,
    stats: opt.Stats = None,
    publish: opt.Publish = None,
    payload: opt.Payload = None,
    quality: opt.Quality = None,
    await_subscriber: opt.AwaitSubscriber = None,
    key: opt.Key = None,
    peer: opt.Peer = None,
    server: opt.Server = None,
    insecure: opt.Insecure = None,
    max_frame_mb: opt.MaxFrameMb = None,
    camera: opt.Camera = None,
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
    """Detect and name the objects of SOURCE.

    \b
    Examples:
      vision run 0 --show
      vision run drive.mp4 --record out.mp4
      vision run rtsp://10.0.0.7/front --jsonl - --latest
      vision run 0 --publish zmq+ipc:///tmp/found
      vision run zmq+ipc:///tmp/front --show --retry
    """
    settings = opt.settings_of(locals())
    with StopSignals() as signals:  # from here on, since to load the engine takes its time
        from pipeline.cli.session import run_session

        opt.require(settings, "source")
        run_session(settings, signals)
