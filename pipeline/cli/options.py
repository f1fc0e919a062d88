"""The options that commands share: one name and one meaning everywhere.

A command lists those it takes as parameters. One that runs a pipeline has all of them None where
they are not given, and makes its `Settings` of them with `settings_of(locals())`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import console
from pipeline.cli.idle import warn_of_idle
from pipeline.cli.pulling import offer_models
from pipeline.cli.targets import check_targets
from pipeline.config import Settings, settings_from
from pipeline.errors import ConfigError

_D = Settings()

logger = logging.getLogger(__name__)


def _option(*names: str, text: str, default: object = None, **more: Any) -> Any:
    shown = text if default is None else f"{text} [{default}]"
    return typer.Option(*names, help=shown, show_default=False, **more)


# What is no number stays a text, so that the settings refuse it in their own words.


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _whole(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


_NUMBER: Any = {"parser": _number, "metavar": "NUMBER"}
_WHOLE: Any = {"parser": _whole, "metavar": "COUNT"}

ADDRESSES = "zmq+tcp://HOST:PORT or zmq+ipc:///PATH"

Source = Annotated[
    str | None,
    typer.Argument(
        help="camera number or device, video file, picture folder or glob, rtsp:// or http:// "
        "address, scene: for the built-in demo scene, or zmq+tcp:// or zmq+ipc:// for the frames "
        "of another process",
        metavar="SOURCE",
        show_default=False,
    ),
]
Detector = Annotated[
    str | None,
    _option("--detector", text="model name or ONNX file", default=_D.detector, metavar="MODEL"),
]
Classifier = Annotated[
    str | None,
    _option(
        "--classifier",
        text="model name or ONNX file that gives finer names, or none",
        default=_D.classifier,
        metavar="MODEL",
    ),
]
Manifest = Annotated[
    str | None,
    _option(
        "--manifest",
        text="what a detector or classifier made by others expects",
        metavar="FILE.toml",
    ),
]
Yes = Annotated[
    bool | None, _option("--yes", "-y", text="fetch models that are not here without asking")
]
Score = Annotated[
    float | None,
    _option("--score", text="leave out objects below this score", default=_D.score, **_NUMBER),
]
Nms = Annotated[
    float | None,
    _option(
        "--nms", text="boxes that overlap more than this are one object", default=_D.nms, **_NUMBER
    ),
]
NmsKind = Annotated[
    str | None,
    _option("--nms-kind", text="how overlap counts", default=_D.nms_kind, metavar="iou|darknet"),
]
Top = Annotated[
    int | None, _option("--top", text="finer names an object gets", default=_D.top, **_WHOLE)
]
Threads = Annotated[
    int | None, _option("--threads", text="cores to use together", default="all cores", **_WHOLE)
]
EveryFrame = Annotated[
    bool | None,
    _option(
        "--every-frame/--latest",
        text="use every frame, or the newest only",
        default="every frame of files, the newest of cameras",
    ),
]
MaxFrames = Annotated[
    int | None, _option("--max-frames", text="stop after this many frames", **_WHOLE)
]
Duration = Annotated[
    float | None, _option("--duration", text="stop after this many seconds", **_NUMBER)
]
OpenTimeout = Annotated[
    float | None,
    _option(
        "--open-timeout", text="seconds to wait for the source", default=_D.open_timeout, **_NUMBER
    ),
]
Retry = Annotated[bool | None, _option("--retry", text="wait for a source that is not there yet")]
ReadTimeout = Annotated[
    float | None,
    _option(
        "--read-timeout",
        text="seconds without a frame that mean broken",
        default=_D.read_timeout,
        **_NUMBER,
    ),
]
Reconnect = Annotated[
    bool | None,
    _option(
        "--reconnect/--no-reconnect",
        text="open a source again when it breaks",
        default="cameras and streams",
    ),
]
Isolate = Annotated[
    bool | None, _option("--isolate", text="read the source in a process of its own")
]
Width = Annotated[
    int | None, _option("--width", text="pixels to ask of a camera or the scene", **_WHOLE)
]
Height = Annotated[
    int | None, _option("--height", text="pixels to ask of a camera or the scene", **_WHOLE)
]
Fps = Annotated[
    float | None, _option("--fps", text="rate to ask of a camera or the scene", **_NUMBER)
]
FourCC = Annotated[
    str | None,
    _option("--fourcc", text="pixel format to ask of a camera, such as MJPG", metavar="CODE"),
]
Show = Annotated[bool | None, _option("--show", text="show a window (q quits, space pauses)")]
Record = Annotated[
    str | None, _option("--record", text="write the annotated video", metavar="FILE.mp4")
]
Jsonl = Annotated[
    str | None,
    _option("--jsonl", text="write one JSON line a frame (- for stdout)", metavar="FILE"),
]
Stats = Annotated[
    str | None,
    _option("--stats", text="write counts, rate, ages and stage times", metavar="FILE.json"),
]
Subscribe = Annotated[
    list[str] | None,
    _option("--subscribe", text="where messages come from; may be repeated", metavar="ADDRESS"),
]
Publish = Annotated[
    str | None,
    _option("--publish", text=f"send to other processes: {ADDRESSES}", metavar="ADDRESS"),
]
Payload = Annotated[
    str | None,
    _option(
        "--payload",
        text="how pixels travel; auto: shared memory within a machine, else JPEG",
        default=_D.payload,
        metavar="auto|raw|jpeg|shm",
    ),
]
Quality = Annotated[
    int | None, _option("--quality", text="of JPEG, 1 to 100", default=_D.quality, **_WHOLE)
]
MaxFrameMb = Annotated[
    int | None,
    _option(
        "--max-frame-mb",
        text="refuse pictures of more MiB from other processes",
        default=_D.max_frame_mb,
        **_WHOLE,
    ),
]
AwaitSubscriber = Annotated[
    bool | None,
    _option("--await-subscriber", text="begin when somebody has subscribed, to lose no start"),
]
Key = Annotated[
    str | None,
    _option("--key", text="this end's key pair (see vision keys)", metavar="FILE.key_secret"),
]
Peer = Annotated[
    list[str] | None,
    _option("--peer", text="key of another end; may be repeated", metavar="FILE.key"),
]
Server = Annotated[
    str | None,
    _option(
        "--server",
        text="key of the end that --subscribe goes to",
        default="the only --peer",
        metavar="FILE.key",
    ),
]
Insecure = Annotated[
    bool | None, _option("--insecure", text="go over the network without keys, in the clear")
]
Group = Annotated[
    str | None,
    _option("--group", text="take turns on the frames with the others of a group", metavar="NAME"),
]
Camera = Annotated[
    str | None, _option("--camera", text="name that the frames carry", metavar="NAME")
]
Config = Annotated[
    Path | None,
    _option("--config", text="read settings from a file; options win", metavar="FILE.yaml"),
]
Quiet = Annotated[bool | None, _option("--quiet", "-q", text="say nothing but errors")]
Debug = Annotated[bool | None, _option("--debug", text="say everything, with tracebacks")]

# What commands that work on models share; these have no settings.
Cores = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        metavar="COUNT",
        help="cores to use",
        show_default="all cores",
    ),
]
NewModel = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="MODEL.onnx", help="where to write it", show_default=False
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="write all figures", show_default=False),
]


def settings_of(parameters: Mapping[str, object]) -> Settings:
    """The settings that a command's parameters and its `--config` file give together.

    Also sets up the log lines as the settings say, and offers to fetch a model that is not here.
    Raises `ConfigError`, and `ModelError` where a model is not to be fetched.
    """
    console.configure(debug=bool(parameters.get("debug")))
    options = {name: parameters[name] for name in Settings.__struct_fields__ if name in parameters}
    options = {name: None if value == [] else value for name, value in options.items()}
    config = parameters.get("config")
    settings = settings_from(options, config if isinstance(config, Path) else None)
    settings, others = _of_command(settings, parameters)
    check_targets(settings, parameters)
    console.configure(quiet=settings.quiet, debug=settings.debug)
    if others:
        logger.info("config %s: not for this command: %s", config, ", ".join(others))
    warn_of_idle(settings, options)
    if "detector" in parameters:
        offer_models((settings.detector, settings.classifier), yes=bool(parameters.get("yes")))
    return settings


def _of_command(settings: Settings, parameters: Mapping[str, object]) -> tuple[Settings, list[str]]:
    """The settings that a command takes, and which others a file holds, as for other commands."""
    taken, others = {}, []
    for name in Settings.__struct_fields__:
        if name in parameters:
            taken[name] = getattr(settings, name)
        elif getattr(settings, name) != getattr(_D, name):
            others.append(name)
    return Settings(**taken), others


def require(settings: Settings, *names: str) -> None:
    """See that settings without a default are given. Raises `ConfigError`."""
    told = {
        "source": "SOURCE is missing; expected a camera number, a file or an address (see --help)",
        "subscribe": f"--subscribe ADDRESS is missing: where messages come from, {ADDRESSES}",
        "publish": f"--publish ADDRESS is missing: where the frames are sent, {ADDRESSES}",
    }
    for name in names:
        if getattr(settings, name) in (None, ()):
            raise ConfigError(told[name])
