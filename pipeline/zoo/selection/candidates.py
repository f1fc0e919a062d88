"""Choice of the most accurate member of a family that is fast enough on this machine.

Members are built with random weights, since the latency does not depend on them. The accuracy does;
it is the published figure of the trained float network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from pipeline.inference.spec import ModelSpec
from pipeline.zoo import Report
from pipeline.zoo.architectures import yolov4_tiny
from pipeline.zoo.architectures.mobilenet import MobileNet, build_mobilenet, float_nodes, make_spec
from pipeline.zoo.architectures.yolov4_tiny import YoloV4Tiny
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.onnx_file import ModelProto
from pipeline.zoo.quantization.quantize import quantize_untrained
from pipeline.zoo.selection.latency import LatencyCache, Measurement, measure, warn_if_busy
from pipeline.zoo.selection.published import DETECTORS, MOBILENETS, TRAINED, Published

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
