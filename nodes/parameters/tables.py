"""The parameters of the nodes: those of the settings, and those that only ROS has."""

from __future__ import annotations

from nodes.parameters.declaration import Parameter
from pipeline.images import JPEG_QUALITY
from pipeline.settings import SETTINGS

_CHANGEABLE = ("score", "nms")
_UNSET = {
    "source": "vision_node subscribes to image_raw",
    "camera": "the source's own; also the frame_id of the headers",
    "fps": "the source's own",
}


def parameters_of_settings(node: str) -> tuple[Parameter, ...]:
    """The parameters of a node that are settings of the pipeline, too."""
    return tuple(
        Parameter.of(setting, _UNSET.get(name, ""), name in _CHANGEABLE)
        for name, setting in SETTINGS.items()
        if setting.about.ros and node in setting.about.nodes
    )


AUTOSTART = Parameter(
    "autostart",
    True,
    "configure and activate the node at its start; if false, wait for the transitions",
)

MAX_DETECTIONS = Parameter(
    "max_detections", 300, "maximum number of detections per frame", 1, 10000
)

MAX_RATE = Parameter(
    "max_rate",
    0.0,
    "maximum number of images per second and camera to process; 0 for no limit",
    0.0,
    1000.0,
    changeable=True,
)

LOOP = Parameter("loop", False, "play a file again after its end")

SUBSCRIPTION = (
    Parameter(
        "image_transport",
        "raw",
        "raw subscribes to image_raw, compressed to image_raw/compressed",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "auto",
        "reliability of the image subscription; auto takes the publisher's",
        choices=("auto", "reliable", "best_effort"),
    ),
    Parameter(
        "image_timeout",
        5.0,
        "seconds without images after which a warning gives the likely reason",
        0.5,
        3600.0,
        changeable=True,
    ),
)

PUBLICATION = (
    Parameter(
        "camera_info_url",
        "",
        "calibration file to publish as camera_info: a path, file:// or package://; empty for none",
    ),
    Parameter(
        "jpeg_quality",
        JPEG_QUALITY,
        "JPEG quality of image_raw/compressed",
        1,
        100,
        changeable=True,
    ),
)

DIAGNOSTICS = (
    Parameter(
        "diagnostics.stale_after",
        2.0,
        "seconds without images after which diagnostics report WARN",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.stopped_after",
        10.0,
        "seconds without images after which diagnostics report ERROR",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_age",
        0.5,
        "age of the results (p95, in seconds) above which diagnostics report WARN",
        0.001,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_rate",
        0.0,
        "results per second below which diagnostics report WARN; 0 for no limit",
        0.0,
        1000.0,
        changeable=True,
    ),
)
