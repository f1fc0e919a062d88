"""The table of all settings: one entry makes an option, a key of files and a variable."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_type_hints

from pipeline.settings.setting import (
    Cameras,
    Count,
    FourCC,
    Fraction,
    MebiBytes,
    NmsKind,
    Payload,
    Pixels,
    Place,
    Quality,
    Rate,
    Seconds,
    Setting,
    Source,
    Switch,
    Text,
    Texts,
    Threads,
    Top,
    setting,
)

NO_MODEL = "none"
ADDRESSES = "zmq+tcp://HOST:PORT or zmq+ipc://NAME"

RUN, DEMO, CAMERA, DETECT, VIEW = "run", "demo", "camera", "detect", "view"
PIPELINES = (RUN, DEMO, CAMERA, DETECT, VIEW)
"""The commands that run a pipeline or a part of one; they read the environment and files too."""
NODES = "ROS nodes with a live source"  # beside commands, for defaults of their own
EVALUATE, COMPARE, CHOOSE, QUANTIZE, HEAD = "evaluate", "compare", "choose", "quantize", "head"
MEASURE = (EVALUATE, COMPARE, CHOOSE)

GENERAL = "General"
GROUPS = ("Source", "Models", "Frames", "Outputs", "Between processes", GENERAL)
"""The sections of a command's help, in order."""
_SOURCE, _MODELS, _FRAMES, _OUTPUTS, _PROCESSES, _ = GROUPS

_CAPTURE = Place(_SOURCE, (RUN, CAMERA), ("vision_node", "camera_node"))
_DETECTION = Place(_MODELS, (RUN, DEMO, DETECT), ("vision_node", "detector_node"))
_CLASSIFICATION = Place(_MODELS, (RUN, DEMO, DETECT), ("vision_node", "classifier_node"))
_INFERENCE = Place(_MODELS, (RUN, DEMO, DETECT), (*_DETECTION.nodes, "classifier_node"))
_LIMIT = Place(_FRAMES, PIPELINES)
_OUTPUT = Place(_OUTPUTS, PIPELINES)
_RECEIVE = Place(_PROCESSES, (DETECT, VIEW))
_SEND = Place(_PROCESSES, (RUN, CAMERA, DETECT))
_CONNECT = Place(_PROCESSES, (RUN, CAMERA, DETECT, VIEW))
_PRINT = Place(GENERAL, PIPELINES)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of all settings. None leaves the choice to the source or turns an output off."""

    source: Source | None = setting(
        None,
        "camera number or device, video file, image folder or glob, rtsp:// or http:// address, "
        "scene: for the built-in demo scene, or zmq+tcp:// or zmq+ipc:// for the frames of "
        "another process",
        _CAPTURE,
        flags=("SOURCE",),
        ros="source",
    )
    camera: Text | None = setting(
        None, "camera name in the results", _CAPTURE, metavar="NAME", ros="frame_id"
    )
    width: Pixels | None = setting(
        None, "width to request from a camera or the scene", _CAPTURE, metavar="PIXELS", ros="width"
    )
    height: Pixels | None = setting(
        None,
        "height to request from a camera or the scene",
        _CAPTURE,
        metavar="PIXELS",
        ros="height",
    )
    fps: Rate | None = setting(
        None, "frame rate to request from a camera, or to play files at", _CAPTURE, ros="fps"
    )
    fourcc: FourCC | None = setting(
        None, "pixel format to request, such as MJPG", _CAPTURE, metavar="CODE", ros="fourcc"
    )
    open_timeout: Seconds = setting(
        5.0, "time limit for opening the source", _CAPTURE, metavar="SECONDS", ros="open_timeout"
    )
    read_timeout: Seconds = setting(
        5.0, "reconnect after this time without a frame", _CAPTURE, metavar="SECONDS"
    )
    retry: Switch = setting(
        False,
        "keep trying to open a source that is not available yet",
        _CAPTURE,
        defaults={NODES: True},
        ros="retry",
    )
    reconnect: Switch | None = setting(
        None,
        "reopen the source when it fails",
        _CAPTURE,
        unset="yes for cameras and streams",
        flags=("--reconnect", "--no-reconnect"),
    )
    isolate: Switch = setting(False, "read the source in a separate process", _CAPTURE)

    detector: Text = setting(
        "yolov4-tiny-int8",
        "detection model: a name (see vision models list), an ONNX file, or none",
        _DETECTION,
        metavar="MODEL",
        ros="detector",
    )
    classifier: Text = setting(
        "mobilenetv2-int8",
        "classification model: a name, an ONNX file, or none",
        _CLASSIFICATION.and_commands(HEAD),
        metavar="MODEL",
        ros="classifier",
    )
    manifest: Text | None = setting(
        None,
        "description of an ONNX file made by other tools",
        _DETECTION.and_commands(EVALUATE, COMPARE, QUANTIZE, HEAD),
        metavar="FILE.toml",
    )
    score: Fraction = setting(
        0.25,
        "discard objects with a lower score",
        _DETECTION.and_commands(EVALUATE, COMPARE),
        defaults={EVALUATE: 0.001},
        ros="score_threshold",
    )
    nms: Fraction = setting(
        0.45,
        "IoU above which the weaker of two boxes of a class is suppressed",
        _DETECTION.and_commands(EVALUATE),
        ros="nms_threshold",
    )
    nms_kind: NmsKind = setting(
        "iou",
        "NMS variant: plain IoU, or Darknet's distance-IoU",
        _DETECTION.and_commands(EVALUATE),
        ros="nms_kind",
    )
    top: Top = setting(5, "number of classes per object", _CLASSIFICATION, ros="top")
    threads: Threads | None = setting(
        None,
        "number of CPU cores to use",
        _INFERENCE.and_commands(*MEASURE),
        unset="all cores",
        ros="threads",
    )

    every_frame: Switch | None = setting(
        None,
        "process every frame, or only the newest",
        Place(_FRAMES, (RUN, CAMERA, DETECT, VIEW)),
        unset="every frame of files, the newest of cameras",
        flags=("--every-frame", "--latest"),
    )
    max_frames: Count | None = setting(
        None, "stop after this many frames", _LIMIT, defaults={DEMO: 300}
    )
    duration: Seconds | None = setting(None, "stop after this time", _LIMIT, metavar="SECONDS")

    show: Switch = setting(False, "show the frames in a window (q quits, space pauses)", _OUTPUT)
    record: Text | None = setting(None, "write the annotated video", _OUTPUT, metavar="FILE.mp4")
    jsonl: Text | None = setting(
        None,
        "write one JSON line per frame (- for standard output)",
        Place(_OUTPUTS, (RUN, DEMO, DETECT, VIEW)),
        metavar="FILE",
    )
    stats: Text | None = setting(
        None, "write frame counts, rate, ages and stage times", _OUTPUT, metavar="FILE.json"
    )

    subscribe: Texts = setting(
        (), f"receive from {ADDRESSES}; may be repeated", _RECEIVE, metavar="ADDRESS"
    )
    publish: Text | None = setting(
        None, f"send to other processes at {ADDRESSES}", _SEND, metavar="ADDRESS"
    )
    group: Text | None = setting(
        None,
        "share the frames with the other detectors of this group",
        Place(_PROCESSES, (DETECT,)),
        metavar="NAME",
    )
    payload: Payload = setting(
        "auto", "how images are sent; auto: shared memory on one machine, else JPEG", _SEND
    )
    quality: Quality = setting(85, "JPEG quality of sent images", _SEND, metavar="1-100")
    max_frame_mb: MebiBytes = setting(
        32, "largest image in MiB to accept from other processes", _CONNECT, metavar="MIB"
    )
    max_cameras: Cameras = setting(
        16,
        "largest number of cameras to accept from other processes",
        Place(_PROCESSES, (RUN, DETECT, VIEW)),
    )
    await_subscriber: Switch = setting(False, "wait for a subscriber before starting", _SEND)
    key: Text | None = setting(
        None, "key pair of this process (see vision keys)", _CONNECT, metavar="FILE.key_secret"
    )
    peer: Texts = setting(
        (),
        "public key of another process; may be repeated. FILE.key=CAMERA,CAMERA lets it send these "
        "cameras only; FILE.key=receive-only or =send-only limits it to one direction",
        _CONNECT,
        metavar="FILE.key",
    )
    server: Text | None = setting(
        None,
        "public key of the process that frames or results come from",
        _CONNECT,
        unset="the only --peer",
        metavar="FILE.key",
    )
    insecure: Switch = setting(
        False,
        "use the network without keys or encryption, and trust other users of this machine",
        _CONNECT,
    )

    quiet: Switch = setting(
        False, "print warnings and errors only", _PRINT, flags=("--quiet", "-q")
    )
    debug: Switch = setting(False, "print debug messages and tracebacks", _PRINT)


_TYPES = get_type_hints(Settings, include_extras=True)

SETTINGS: dict[str, Setting] = {
    one.name: Setting.of(_TYPES[one.name], one) for one in fields(Settings)
}
"""Every setting by its name, in the order of the table."""


def settings_of(command: str) -> list[Setting]:
    """The settings that apply to a command."""
    return [one for one in SETTINGS.values() if command in one.about.commands]
