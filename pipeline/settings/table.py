"""The table of all settings: add a setting here, and it is an option, a key and a variable."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_type_hints

from pipeline.settings import kinds
from pipeline.settings.setting import Setting, setting

NO_CLASSIFIER = "none"

RUN, DEMO, CAMERA, DETECT, VIEW = "run", "demo", "camera", "detect", "view"
PIPELINES = (RUN, DEMO, CAMERA, DETECT, VIEW)
"""The commands that run a pipeline or a part of one; they read the environment and files too."""
EVALUATE, COMPARE, CHOOSE, QUANTIZE, HEAD = "evaluate", "compare", "choose", "quantize", "head"

_CAPTURE = (RUN, CAMERA)
_INFER = (RUN, DEMO, DETECT)
_RECEIVE = (DETECT, VIEW)
_SEND = (RUN, CAMERA, DETECT)
_CONNECT = (RUN, CAMERA, DETECT, VIEW)

_VISION_NODE, _CAMERA_NODE = "vision_node", "camera_node"
_CAPTURING = (_VISION_NODE, _CAMERA_NODE)
_DETECTING = (_VISION_NODE, "detector_node")
_CLASSIFYING = (_VISION_NODE, "classifier_node")

SOURCE = "Source"
MODELS = "Models"
FRAMES = "Frames"
OUTPUTS = "Outputs"
PROCESSES = "Between processes"
GENERAL = "General"
GROUPS = (SOURCE, MODELS, FRAMES, OUTPUTS, PROCESSES, GENERAL)
"""The sections of a command's help, in order."""

ADDRESSES = "zmq+tcp://HOST:PORT or zmq+ipc:///PATH"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values of all settings, by default each one's default.

    None stands for what the source or the machine decides, and turns an output off.
    """

    source: kinds.Source | None = setting(
        None,
        "camera number or device, video file, image folder or glob, rtsp:// or http:// address, "
        "scene: for the built-in demo scene, or zmq+tcp:// or zmq+ipc:// for the frames of "
        "another process",
        SOURCE,
        _CAPTURE,
        flags=("SOURCE",),
        ros="source",
        nodes=_CAPTURING,
    )
    camera: kinds.Text | None = setting(
        None,
        "name of the camera in frames and results",
        SOURCE,
        _CAPTURE,
        unset="from the source",
        metavar="NAME",
        ros="frame_id",
        nodes=_CAPTURING,
    )
    width: kinds.Pixels | None = setting(
        None,
        "image width in pixels to request from a camera or the scene",
        SOURCE,
        _CAPTURE,
        ros="width",
        nodes=_CAPTURING,
    )
    height: kinds.Pixels | None = setting(
        None,
        "image height in pixels to request from a camera or the scene",
        SOURCE,
        _CAPTURE,
        ros="height",
        nodes=_CAPTURING,
    )
    fps: kinds.Rate | None = setting(
        None,
        "frame rate to request from a camera or the scene",
        SOURCE,
        _CAPTURE,
        ros="fps",
        nodes=_CAPTURING,
    )
    fourcc: kinds.FourCC | None = setting(
        None,
        "pixel format to request from a camera, such as MJPG",
        SOURCE,
        _CAPTURE,
        metavar="CODE",
        ros="fourcc",
        nodes=_CAPTURING,
    )
    open_timeout: kinds.Seconds = setting(
        5.0,
        "seconds to wait for the source to open",
        SOURCE,
        _CAPTURE,
        ros="open_timeout",
        nodes=_CAPTURING,
    )
    read_timeout: kinds.Seconds = setting(
        5.0, "reconnect after this many seconds without a frame", SOURCE, _CAPTURE
    )
    retry: kinds.Switch = setting(
        False,
        "keep trying to open a source that is not available yet",
        SOURCE,
        _CAPTURE,
        ros="retry",
        nodes=_CAPTURING,
    )
    reconnect: kinds.Switch | None = setting(
        None,
        "reopen the source when it fails",
        SOURCE,
        _CAPTURE,
        unset="yes for cameras and streams",
        flags=("--reconnect", "--no-reconnect"),
    )
    isolate: kinds.Switch = setting(
        False, "read the source in a separate process", SOURCE, _CAPTURE
    )
    detector: kinds.Text = setting(
        "yolov4-tiny-int8",
        "detection model: a name (see vision models list) or an ONNX file",
        MODELS,
        _INFER,
        metavar="MODEL",
        ros="detector",
        nodes=_DETECTING,
    )
    classifier: kinds.Text = setting(
        "mobilenetv2-int8",
        "classification model: a name, an ONNX file, or none",
        MODELS,
        (*_INFER, HEAD),
        metavar="MODEL",
        ros="classifier",
        nodes=_CLASSIFYING,
    )
    manifest: kinds.Text | None = setting(
        None,
        "description of an ONNX file made by other tools",
        MODELS,
        (*_INFER, EVALUATE, COMPARE, QUANTIZE, HEAD),
        metavar="FILE.toml",
    )
    score: kinds.Fraction = setting(
        0.25,
        "discard objects with a lower score",
        MODELS,
        (*_INFER, EVALUATE, COMPARE),
        defaults={EVALUATE: 0.001},
        ros="score_threshold",
        nodes=_DETECTING,
    )
    nms: kinds.Fraction = setting(
        0.45,
        "merge boxes of a class whose overlap (IoU) is higher",
        MODELS,
        (*_INFER, EVALUATE),
        ros="nms_threshold",
        nodes=_DETECTING,
    )
    nms_kind: kinds.NmsKind = setting(
        "iou",
        "NMS variant: plain IoU, or Darknet's distance-IoU",
        MODELS,
        (*_INFER, EVALUATE),
        ros="nms_kind",
        nodes=_DETECTING,
    )
    top: kinds.Top = setting(
        5, "number of classes per object", MODELS, (RUN, DETECT), ros="top", nodes=_CLASSIFYING
    )
    threads: kinds.Threads | None = setting(
        None,
        "number of CPU cores to use",
        MODELS,
        (*_INFER, EVALUATE, COMPARE, CHOOSE),
        unset="all cores",
        ros="threads",
        nodes=("vision_node", "detector_node", "classifier_node"),
    )
    every_frame: kinds.Switch | None = setting(
        None,
        "process every frame, or only the newest",
        FRAMES,
        _CONNECT,
        unset="every frame of files, the newest of cameras",
        flags=("--every-frame", "--latest"),
    )
    max_frames: kinds.Count | None = setting(
        None, "stop after this many frames", FRAMES, PIPELINES, defaults={DEMO: 300}
    )
    duration: kinds.Seconds | None = setting(None, "stop after this many seconds", FRAMES, _CONNECT)
    show: kinds.Switch = setting(
        False, "show the frames in a window (q quits, space pauses)", OUTPUTS, PIPELINES
    )
    record: kinds.Text | None = setting(
        None, "write the annotated video", OUTPUTS, PIPELINES, metavar="FILE.mp4"
    )
    jsonl: kinds.Text | None = setting(
        None,
        "write one JSON line per frame (- for standard output)",
        OUTPUTS,
        (RUN, DEMO, DETECT, VIEW),
        metavar="FILE",
    )
    stats: kinds.Text | None = setting(
        None,
        "write frame counts, rate, ages and stage times at the end",
        OUTPUTS,
        PIPELINES,
        metavar="FILE.json",
    )
    subscribe: kinds.Texts = setting(
        (),
        f"receive from {ADDRESSES}; may be repeated",
        PROCESSES,
        _RECEIVE,
        metavar="ADDRESS",
    )
    publish: kinds.Text | None = setting(
        None, f"send to other processes at {ADDRESSES}", PROCESSES, _SEND, metavar="ADDRESS"
    )
    group: kinds.Text | None = setting(
        None,
        "share the frames with the other detectors of this group",
        PROCESSES,
        (DETECT,),
        metavar="NAME",
    )
    payload: kinds.Payload = setting(
        "auto",
        "how images are sent; auto: shared memory on one machine, else JPEG",
        PROCESSES,
        _SEND,
    )
    quality: kinds.Quality = setting(85, "JPEG quality, 1 to 100", PROCESSES, _SEND)
    max_frame_mb: kinds.MebiBytes = setting(
        32, "largest image in MiB to accept from other processes", PROCESSES, _CONNECT
    )
    await_subscriber: kinds.Switch = setting(
        False, "wait for a subscriber before starting", PROCESSES, _SEND
    )
    key: kinds.Text | None = setting(
        None,
        "key pair of this process (see vision keys)",
        PROCESSES,
        _CONNECT,
        metavar="FILE.key_secret",
    )
    peer: kinds.Texts = setting(
        (),
        "public key of another process; may be repeated",
        PROCESSES,
        _CONNECT,
        metavar="FILE.key",
    )
    server: kinds.Text | None = setting(
        None,
        "public key of the process that frames or results come from",
        PROCESSES,
        _CONNECT,
        unset="the only --peer",
        metavar="FILE.key",
    )
    insecure: kinds.Switch = setting(
        False, "use the network without keys or encryption", PROCESSES, _CONNECT
    )
    quiet: kinds.Switch = setting(
        False, "print warnings and errors only", GENERAL, PIPELINES, flags=("--quiet", "-q")
    )
    debug: kinds.Switch = setting(False, "print debug messages and tracebacks", GENERAL, PIPELINES)


_TYPES = get_type_hints(Settings, include_extras=True)

SETTINGS: dict[str, Setting] = {
    one.name: Setting.of(_TYPES[one.name], one) for one in fields(Settings)
}
"""Every setting by its name, in the order of the table."""


def settings_of(command: str) -> list[Setting]:
    """The settings that apply to a command."""
    return [one for one in SETTINGS.values() if command in one.about.commands]
