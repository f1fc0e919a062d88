"""The parameters that several nodes share, in one table per purpose."""

from __future__ import annotations

from nodes.parameters.declaration import Parameter

JPEG_QUALITY = 90

AUTOSTART = Parameter(
    "autostart",
    True,
    "configure and activate the node at its start; if false, wait for the transitions",
)

THREADS = Parameter("threads", 0, "number of cores for inference; 0 for all cores", 0, 1024)

MAX_RATE = Parameter(
    "max_rate",
    0.0,
    "maximum number of images per second and camera to process; 0 for no limit",
    0.0,
    1000.0,
    changeable=True,
)

DETECTION = (
    Parameter(
        "detector",
        "yolov4-tiny-int8",
        "detection model: a name (see vision models list) or the path of an ONNX file",
    ),
    Parameter(
        "score_threshold",
        0.25,
        "lowest score of a detection; a change applies from the next frame on",
        0.0,
        1.0,
        changeable=True,
    ),
    Parameter(
        "nms_threshold",
        0.45,
        "overlap above which two boxes of one class are one object",
        0.0,
        1.0,
        changeable=True,
    ),
    Parameter(
        "nms_kind",
        "iou",
        "NMS variant: iou for plain IoU, darknet for Darknet's distance-IoU",
        choices=("iou", "darknet"),
    ),
    Parameter("max_detections", 300, "maximum number of detections per frame", 1, 10000),
    THREADS,
    MAX_RATE,
)

CLASSIFICATION = (
    Parameter(
        "classifier",
        "mobilenetv2-int8",
        "classification model: a name or the path of an ONNX file; none for no classification",
    ),
    Parameter("top", 5, "number of classes per object", 1, 1000),
)

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

CAPTURE = (
    Parameter(
        "source",
        "",
        "source of the images: a camera number, /dev/videoN, a file, a folder, rtsp://, http://, "
        "zmq+tcp://HOST:PORT/CAMERA, or scene: for the built-in scene",
    ),
    Parameter("frame_id", "", "frame_id of the images' headers; empty for the source's name"),
    Parameter("width", 0, "width to request from a camera in pixels; 0 for its default", 0, 16384),
    Parameter(
        "height", 0, "height to request from a camera in pixels; 0 for its default", 0, 16384
    ),
    Parameter(
        "fps",
        0.0,
        "frames per second to request from a camera or to play files at; 0 for the source's own",
        0.0,
        1000.0,
    ),
    Parameter(
        "fourcc", "", "pixel format to request from a camera, such as MJPG; empty for its default"
    ),
    Parameter(
        "open_timeout",
        5.0,
        "seconds within which a camera or stream must deliver its first frame",
        0.1,
        3600.0,
    ),
    Parameter("retry", False, "if the source cannot be opened, retry with back-off"),
    Parameter("loop", False, "play a file again after its end"),
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
