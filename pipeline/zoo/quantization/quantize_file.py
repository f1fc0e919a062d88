"""Conversion of a float model file to int8, with a report of accuracy, size and speed.

All figures of the report are measured in one run. The float figures are those of the same network
in canonical form, with the same uint8 input, so that the difference is the effect of int8 alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from pipeline.errors import InputError
from pipeline.files.scratch import scratch_folder
from pipeline.inference.classifier import crop_into
from pipeline.inference.external import stored_bytes
from pipeline.inference.preprocess import place, resize_into
from pipeline.inference.session import open_model
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.types import Image
from pipeline.zoo import Report
from pipeline.zoo.datasets.image_folders import ReadableImages, find_images, spread
from pipeline.zoo.evaluation.classification import central_crop
from pipeline.zoo.evaluation.metrics import Metric, metric_by_labels, metric_by_reference
from pipeline.zoo.evaluation.timing import PairedTiming, measure_speed
from pipeline.zoo.graphs.canonical import canonical_form
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.onnx_file import ModelProto, load_graph, save_model
from pipeline.zoo.quantization.calibration import Batch, Method
from pipeline.zoo.quantization.qdq import QuantizationPlan
from pipeline.zoo.quantization.quantize import (
    Calibrated,
    calibrate,
    fewest_in_float,
    is_grouped,
    named_layers,
    rank_layers,
)
from pipeline.zoo.quantization.rounding import correct_biases

AUTO = "auto"
CALIBRATION_IMAGES = 128
"""More images take longer and hardly change the ranges."""
_HELD_OUT_EVERY = 4
_FEWEST_TO_HOLD_OUT = 8


@dataclass(frozen=True)
class Request:
    """What to quantise and how.

    `images` is the folder to calibrate with, `test` labelled data to measure with. `keep_float`
    are layers, names or patterns, or `AUTO` alone: then the fewest with which the loss is at most
    `max_loss` points. `spec` describes a third-party model.
    """

    model: Path
    output: Path
    images: Path
    test: Path | None = None
    method: Method = "mse"
    keep_float: tuple[str, ...] = ()
    max_loss: float = 1.0
    spec: ModelSpec | None = None


class QuantizeReport(NamedTuple):
    """The figures of the int8 file; `before` and `after` are percentages of `metric`.

    `float_layers` are those kept in float on request or by measurement, of `layers` in all.
    """

    metric: Metric
    before: float
    after: float
    bytes_before: int
    bytes_after: int
    timings: list[PairedTiming]
    layers: int
    float_layers: list[str]
    calibrated_on: int

    @property
    def loss(self) -> float:
        return self.before - self.after


class _Images(NamedTuple):
    """The images to calibrate with and, without labels, to measure with."""

    calibrate: list[Path]
    measure: list[Path]


def quantize_file(request: Request, report: Report) -> QuantizeReport:
    """Write the int8 form of `request.model` atomically to `request.output`.

    Raises `InputError` if the model, the images or the labels cannot be used, `RunError` if
    something fails.
    """
    opened = open_model(request.model, spec=request.spec)
    spec = opened.spec
    images = _choose_images(request.images, report, hold_out=request.test is None)
    canonical = canonical_form(load_graph(opened.path), spec)
    labelled = _metric_by_labels(request, canonical.spec, images.measure, report)
    rewritten, heads = heads_as_products(widen_stem(canonical.model))
    keep_float = [*heads, *canonical.float_nodes]
    if request.keep_float != (AUTO,):  # report unknown names before the long work
        named_layers(QuantizationPlan(rewritten, keep_float).layers, request.keep_float)
    batches = _batches(request.images, images.calibrate, spec, report)
    calibrated = _calibrate(rewritten, batches, keep_float, request.method, report)
    with scratch_folder() as folder:
        bench = _Bench(folder, canonical.spec, calibrated, report)
        save_model(canonical.model, canonical.spec, bench.float32)
        bench.choose_metric(labelled, request.images, images.measure)
        kept = bench.choose_layers(request, batches)
        after = bench.measure(kept)
        result = QuantizeReport(
            bench.metric, bench.before, after,
            stored_bytes(opened.path), bench.int8.stat().st_size,
            measure_speed(bench.float32, bench.int8),
            len(calibrated.layers), kept, len(images.calibrate),
        )  # fmt: skip
        final = msgspec.structs.replace(canonical.spec, name=request.output.stem)
        save_model(bench.build(kept), final, request.output)
    return result


def _calibrate(
    model: ModelProto,
    batches: Sequence[Batch],
    keep_float: Sequence[str],
    method: Method,
    report: Report,
) -> Calibrated:
    """Calibrate; with grouped convolutions, correct biases instead of rounding jointly."""
    has_groups = any(node.op_type == "Conv" and is_grouped(node) for node in model.graph.node)
    if has_groups:
        model = correct_biases(model, batches)
    return calibrate(
        model, batches, keep_float=keep_float, method=method,
        jointly=not has_groups, for_any=True, report=report,
    )  # fmt: skip


class _Bench:
    """Builds int8 forms of one network in a folder, and measures them."""

    metric: Metric
    before: float

    def __init__(
        self, folder: Path, spec: ModelSpec, calibrated: Calibrated, report: Report
    ) -> None:
        self.float32 = folder / "float.onnx"
        self.int8 = folder / "int8.onnx"
        self._spec = spec
        self._calibrated = calibrated
        self._report = report
        self._measured: dict[tuple[str, ...], float] = {}

    def choose_metric(self, labelled: Metric | None, folder: Path, images: Sequence[Path]) -> None:
        """Use the labels if there are any, else agreement with the float network."""
        self._report("measuring", 0, 1)
        self.metric = labelled or metric_by_reference(self._spec, self.float32, folder, images)
        self.before = self.metric.measure(self.float32)

    def choose_layers(self, request: Request, batches: Sequence[Batch]) -> list[str]:
        """Return the layers to keep in float."""
        layers = self._calibrated.layers
        if request.keep_float != (AUTO,):
            return named_layers(layers, request.keep_float)
        if self.before - self.measure([]) <= request.max_loss:
            return []
        ranked = rank_layers(self._calibrated, batches, self._report)
        return fewest_in_float(
            ranked, lambda some: self.before - self.measure(some), request.max_loss
        )

    def measure(self, float_layers: Sequence[str]) -> float:
        """Return the figure of the network with some layers in float, stored in `self.int8`."""
        key = tuple(float_layers)
        save_model(self.build(float_layers), self._spec, self.int8)
        if key not in self._measured:
            self._measured[key] = self.metric.measure(self.int8)
        done = len(self._measured)
        self._report("measuring", done, done)
        return self._measured[key]

    def build(self, float_layers: Sequence[str]) -> ModelProto:
        """Return the int8 form with some layers in float."""
        layers = self._calibrated.layers
        return self._calibrated.quantize([n for layer in float_layers for n in layers[layer]])


def _metric_by_labels(
    request: Request, spec: ModelSpec, images: Sequence[Path], report: Report
) -> Metric | None:
    """Return the metric over labelled data, or None without labels."""
    if request.test is not None:
        return metric_by_labels(spec, request.test, report=report)
    if spec.task == "detect" and os.path.isdir(request.images / "labels"):
        return metric_by_labels(spec, request.images, images, report)
    return None


def _choose_images(folder: Path, report: Report, *, hold_out: bool) -> _Images:
    """Hold out every fourth readable image for measuring, unless there are too few."""
    some = spread(find_images(folder), 2 * CALIBRATION_IMAGES)
    usable = [path for path, _ in _read(folder, some, report, "checking images")]
    if not usable:
        raise InputError(f"{folder}: expected images to calibrate with, but none can be decoded")
    if not hold_out or len(usable) < _FEWEST_TO_HOLD_OUT:
        chosen = spread(usable, CALIBRATION_IMAGES)
        return _Images(chosen, chosen)
    others = [path for index, path in enumerate(usable) if index % _HELD_OUT_EVERY]
    return _Images(spread(others, CALIBRATION_IMAGES), usable[::_HELD_OUT_EVERY])


def _batches(folder: Path, paths: Sequence[Path], spec: ModelSpec, report: Report) -> list[Batch]:
    """Return the network's input (1, height, width, 3) for each image.

    For a classifier these are two inputs per image: its centre, and all of it as if in a box.
    """
    batches: list[Batch] = []
    for _, image in _read(folder, paths, report, "reading images"):
        if spec.task == "classify":
            batches += [view[None] for view in _crops(image, spec.input)]
        else:
            batches.append(detector_input(image, spec.input)[None])
    return batches


def _read(
    folder: Path, paths: Sequence[Path], report: Report, job: str
) -> Iterator[tuple[Path, Image]]:
    """Yield the readable images, with a report after each, since large ones are slow."""
    report(job, 0, len(paths))
    for done, found in enumerate(ReadableImages(folder, paths), 1):
        yield found
        report(job, done, len(paths))


def detector_input(image: Image, entry: InputSpec) -> Image:
    """Return an image at the input size of a detector."""
    height, width = image.shape[:2]
    out = np.empty((entry.height, entry.width, 3), np.uint8)
    resize_into(image, out, place(width, height, entry.width, entry.height, entry.fit))
    return out


def _crops(image: Image, entry: InputSpec) -> list[Image]:
    box = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
    crop = np.empty((entry.height, entry.width, 3), np.uint8)
    crop_into(image, box, crop)
    return [np.ascontiguousarray(central_crop(image, entry.width, entry.height)), crop]
