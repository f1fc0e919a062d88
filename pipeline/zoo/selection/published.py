"""Published accuracy of MobileNet and YOLOv4-tiny networks, with its sources.

MobileNets: ImageNet validation, one centre crop, float. YOLOv4-tiny: COCO, 80 classes, float.
"""

from __future__ import annotations

from typing import NamedTuple

_SLIM_V1 = "tensorflow/models, research/slim/nets/mobilenet_v1.md"
_SLIM = "tensorflow/models, research/slim/nets/mobilenet/README.md"
_TIMM = "huggingface/pytorch-image-models, results/results-imagenet.csv"


class Published(NamedTuple):
    """A MobileNet and its accuracy on ImageNet's validation set in percent."""

    family: str
    width: float
    resolution: int
    top1: float
    top5: float | None
    source: str


def _rows(
    family: str, width: float, source: str, accuracy: dict[int, tuple[float, float | None]]
) -> tuple[Published, ...]:
    return tuple(
        Published(family, width, resolution, top1, top5, source)
        for resolution, (top1, top5) in accuracy.items()
    )


_V1, _V2, _V3, _V4 = "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mobilenet_v4"

MOBILENETS: tuple[Published, ...] = (
    *_rows(_V1, 1.0, _SLIM_V1,
           {224: (70.9, 89.9), 192: (70.0, 89.2), 160: (68.0, 87.7), 128: (65.2, 85.8)}),
    *_rows(_V1, 0.75, _SLIM_V1,
           {224: (68.4, 88.2), 192: (67.2, 87.3), 160: (65.3, 86.0), 128: (62.1, 83.9)}),
    *_rows(_V1, 0.5, _SLIM_V1,
           {224: (63.3, 84.9), 192: (61.7, 83.6), 160: (59.1, 81.9), 128: (56.3, 79.4)}),
    *_rows(_V1, 0.25, _SLIM_V1,
           {224: (49.8, 74.2), 192: (47.7, 72.3), 160: (45.5, 70.3), 128: (41.5, 66.3)}),
    *_rows(_V2, 1.4, _SLIM, {224: (75.0, 92.5)}),
    *_rows(_V2, 1.3, _SLIM, {224: (74.4, 92.1)}),
    *_rows(_V2, 1.0, _SLIM,
           {224: (71.8, 91.0), 192: (70.7, 90.1), 160: (68.8, 89.0), 128: (65.3, 86.9),
            96: (60.3, 83.2)}),
    *_rows(_V2, 0.75, _SLIM,
           {224: (69.8, 89.6), 192: (68.7, 88.9), 160: (66.4, 87.3), 128: (63.2, 85.3),
            96: (58.8, 81.6)}),
    *_rows(_V2, 0.5, _SLIM,
           {224: (65.4, 86.4), 192: (63.9, 85.4), 160: (61.0, 83.2), 128: (57.7, 80.8),
            96: (51.2, 75.8)}),
    *_rows(_V2, 0.35, _SLIM,
           {224: (60.3, 82.9), 192: (58.2, 81.2), 160: (55.7, 79.1), 128: (50.8, 75.0),
            96: (45.5, 70.4)}),
    *_rows(f"{_V3}_large", 1.0, _SLIM, {224: (75.2, None)}),
    *_rows(f"{_V3}_large", 0.75, _SLIM, {224: (73.3, None)}),
    *_rows(f"{_V3}_small", 1.0, _SLIM, {224: (67.5, None)}),
    *_rows(f"{_V3}_small", 0.75, _SLIM, {224: (65.4, None)}),
    *_rows(f"{_V4}_conv_small", 1.0, _TIMM, {224: (73.76, 91.43)}),
    *_rows(f"{_V4}_conv_medium", 1.0, _TIMM, {256: (79.92, 95.19)}),
    *_rows(f"{_V4}_hybrid_medium", 1.0, _TIMM, {224: (80.43, 95.38)}),
    *_rows(f"{_V4}_conv_large", 1.0, _TIMM, {384: (82.97, 96.24)}),
)  # fmt: skip

DETECTORS = {"yolov4_tiny_416_80": (22.0, 42.0, "arXiv 2011.08036")}
"""AP (0.5 to 0.95) and AP50 on COCO in percent, and the source, by the name of the member."""

TRAINED = {
    "mobilenet_v2_0.5_224": "mobilenetv2-050",
    "mobilenet_v2_1.0_224": "mobilenetv2-100",
    "mobilenet_v2_1.4_224": "mobilenetv2-140",
    "mobilenet_v3_large_1.0_224": "mobilenetv3-large",
    "mobilenet_v3_small_0.75_224": "mobilenetv3-small-075",
    "yolov4_tiny_416_80": "yolov4-tiny",
}
"""Registered models with trained float weights, by the name of the member."""
