"""Choice of the most accurate member of a family that is fast enough on this machine.

Members are built with random weights, since the latency does not depend on them. The accuracy does;
it is the published figure of the trained float network. MobileNets: ImageNet validation, one centre
crop, float. YOLOv4-tiny: COCO, 80 classes, float.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec

from pipeline.inference.spec import ModelSpec
from pipeline.zoo import Report
from pipeline.zoo.architectures import yolov4_tiny
from pipeline.zoo.architectures.mobilenet import MobileNet, build_mobilenet, float_nodes, make_spec
from pipeline.zoo.architectures.yolov4_tiny import YoloV4Tiny
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.latency import LatencyCache, Measurement, measure, warn_if_busy
from pipeline.zoo.onnx_file import ModelProto
from pipeline.zoo.quantization.quantize import quantize_untrained

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


IMAGENET_CLASSES = 1000
DETECTOR_SIZES = tuple(range(256, 609, 32))
DETECTOR_CLASSES = (1, 80)

_ROUNDS = 2
_SECOND_ROUND_S = 90.0
"""No second measurement starts after this."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A network to choose from, with its published accuracy.

    `accuracy` is in percent (top-1 or AP), None if unpublished; `more` is top-5 or AP50. `rank`
    orders the networks of a `group` by accuracy: it is the published figure, or else the input size
    in pixels. `trained` is the name of a registered model with trained weights, or empty.
    """

    name: str
    family: str
    spec: Callable[[], ModelSpec]
    build: Callable[[bool], ModelProto]
    rank: float
    accuracy: float | None = None
    more: float | None = None
    source: str = ""
    group: str = ""
    trained: str = ""


@dataclass(frozen=True)
class Choice:
    """A candidate and its measurement; `on_frontier` if no other is as fast and as accurate."""

    candidate: Candidate
    measured: Measurement
    on_frontier: bool = False


def classifiers(classes: int = IMAGENET_CLASSES) -> list[Candidate]:
    """Return the MobileNets with a published ImageNet accuracy, with a head for `classes`.

    Raises `InputError` for an unsupported number of classes.
    """
    return [_classifier(row, classes) for row in MOBILENETS]


def detectors(
    sizes: Iterable[int] = DETECTOR_SIZES, classes: Iterable[int] = DETECTOR_CLASSES
) -> list[Candidate]:
    """Return YOLOv4-tiny for every input size and number of classes.

    Raises `InputError` for an unsupported size or number of classes.
    """
    sizes = tuple(sizes)
    return [_detector(YoloV4Tiny(size, count)) for count in classes for size in sizes]


def measure_all(
    candidates: Sequence[Candidate],
    cache: LatencyCache,
    *,
    threads: int,
    int8: bool,
    fresh: bool = False,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> list[Choice]:
    """Return every candidate with its measurement, in order of latency.

    Measurements in `cache` are reused, unless `fresh`. Each candidate is measured twice with all
    others in between, and the shorter time counts, so that a temporary load does not make one
    member look slow. Slow machines skip the second measurement.
    """
    end = clock() + _SECOND_ROUND_S
    kept = {c.name: None if fresh else cache.get(_key(c, int8)) for c in candidates}
    new = [candidate for candidate in candidates if kept[candidate.name] is None]
    is_rough = bool(new and warn_if_busy())
    _warn_if_rough(kept.values(), is_rough)
    for step in range(_ROUNDS * len(new)):
        report("measuring", step, _ROUNDS * len(new))
        if step >= len(new) and clock() > end:
            break  # a slow machine
        candidate = new[step % len(new)]
        measured = measure(candidate.build(int8), candidate.spec(), threads)
        measured = msgspec.structs.replace(measured, is_rough=is_rough)
        before = kept[candidate.name]
        if before is None or measured.latency_ms < before.latency_ms:
            kept[candidate.name] = measured
            cache.put(_key(candidate, int8), measured)
    if new:
        report("measuring", _ROUNDS * len(new), _ROUNDS * len(new))
    choices = [Choice(c, found) for c in candidates if (found := kept[c.name]) is not None]
    return mark_frontier(choices)


def _warn_if_rough(stored: Iterable[Measurement | None], is_rough: bool) -> None:
    """Warn of stored measurements that are too long, unless the new ones are too."""
    rough = sum(found is not None and found.is_rough for found in stored)
    if rough and not is_rough:
        logger.warning(
            "%d of these times are too long: other programs used the processor during the "
            "measurement; close them and measure again with --fresh", rough
        )  # fmt: skip


def _key(candidate: Candidate, int8: bool) -> str:
    return f"{candidate.name} {'int8' if int8 else 'float'}"


def mark_frontier(choices: Iterable[Choice]) -> list[Choice]:
    """Sort choices by latency, and mark those that are more accurate than all faster ones.

    Only candidates of the same group are compared.
    """
    best: dict[str, float] = {}
    marked = []
    for choice in sorted(choices, key=lambda c: (c.measured.latency_ms, -c.candidate.rank)):
        candidate = choice.candidate
        on_frontier = candidate.rank > best.get(candidate.group, float("-inf"))
        if on_frontier:
            best[candidate.group] = candidate.rank
        marked.append(Choice(candidate, choice.measured, on_frontier))
    return marked


def best_within(choices: Iterable[Choice], budget_ms: float) -> dict[str, Choice]:
    """Return the most accurate choice within `budget_ms` of each group."""
    best: dict[str, Choice] = {}
    for choice in choices:
        group = choice.candidate.group
        if choice.measured.latency_ms <= budget_ms and (
            group not in best or choice.candidate.rank > best[group].candidate.rank
        ):
            best[group] = choice
    return best


def _classifier(row: Published, classes: int) -> Candidate:
    member = MobileNet(row.family, row.width, row.resolution, classes)
    return Candidate(
        name=member.name if classes == IMAGENET_CLASSES else f"{member.name}_{classes}",
        family=row.family,
        spec=partial(make_spec, member),
        build=partial(_build_classifier, member),
        rank=row.top1,
        accuracy=row.top1,
        more=row.top5,
        source=row.source,
        trained=TRAINED.get(member.name, "") if classes == IMAGENET_CLASSES else "",
    )


def _build_classifier(member: MobileNet, int8: bool) -> ModelProto:
    model = build_mobilenet(member)
    return quantize_untrained(model, float_nodes(model)) if int8 else model


def _detector(member: YoloV4Tiny) -> Candidate:
    ap, ap50, source = DETECTORS.get(member.name, (None, None, ""))
    return Candidate(
        name=member.name,
        family="yolov4_tiny",
        spec=partial(yolov4_tiny.make_yolo_spec, member),
        build=partial(_build_detector, member),
        rank=member.resolution,
        accuracy=ap,
        more=ap50,
        source=source,
        group="1 class" if member.classes == 1 else f"{member.classes} classes",
        trained=TRAINED.get(member.name, ""),
    )


def _build_detector(member: YoloV4Tiny, int8: bool) -> ModelProto:
    model = yolov4_tiny.build_yolov4_tiny(member)
    if not int8:
        return model
    rewritten, keep_float = heads_as_products(widen_stem(model))
    return quantize_untrained(rewritten, keep_float)
