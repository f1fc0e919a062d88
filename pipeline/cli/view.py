"""`vision view`: what other processes have found, in a window or a file."""

from __future__ import annotations

from msgspec import structs

from pipeline.cli import options as opt
from pipeline.cli.signals import StopSignals


def view(
    subscribe: opt.Subscribe = None,
    show: opt.Show = None,
    record: opt.Record = None,
    jsonl: opt.Jsonl = None,
    stats: opt.Stats = None,
    max_frame_mb: opt.MaxFrameMb = None,
    key: opt.Key = None,
    peer: opt.Peer = None,
    server: opt.Server = None,
    insecure: opt.Insecure = None,
    every_frame: opt.EveryFrame = None,
    max_frames: opt.MaxFrames = None,
    duration: opt.Duration = None,
    config: opt.Config = None,
    quiet: opt.Quiet = None,
    debug: opt.Debug = None,
) -> None:
    """Show what other processes publish: in a window, or with --jsonl or --record in a file.

    Of a camera without a detector it shows the plain frames. It waits for what is not there yet.

    \b
    Examples:
      vision view --subscribe zmq+ipc:///tmp/found
      vision view --subscribe zmq+ipc:///tmp/found --jsonl found.jsonl --record found.mp4
      vision view --subscribe zmq+tcp://drone:5555 --key ground.key_secret --peer drone.key
    """
    settings = opt.settings_of(locals())
    if not (settings.jsonl or settings.record):
        settings = structs.replace(settings, show=True)
    with StopSignals() as signals:
        from pipeline.cli.inputs import open_results
        from pipeline.cli.outputs import Outputs
        from pipeline.cli.session import pass_on

        opt.require(settings, "subscribe")
        images = settings.show or settings.record is not None  # else they are not sent at all
        with open_results(settings, images=images) as results, Outputs(settings) as outputs:
            pass_on(results, settings, outputs, signals)
