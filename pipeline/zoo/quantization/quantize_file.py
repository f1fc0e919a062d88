"""From a float model file to an int8 one, with a report of what that cost and brought.

Everything in the report is measured in one run: the float figures are those of the same network in
the same form, taking the same pixels, so that the difference is what int8 does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from pipeline.errors import InputError
from pipeline.inference.classifier import crop_into
from pipeline.inference.external import stored_bytes
from pipeline.inference.preprocess import place, resize_into
from pipeline.inference.session import open_model
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.types import Image
from pipeline.zoo.datasets.image_folders import UsablePictures, find_pictures, spread
from pipeline.zoo.evaluation.classification import tested_crop
from pipeline.zoo.evaluation.detector_accuracy import PairedTiming, measure_speed
from pipeline.zoo.evaluation.metrics import Yardstick, yardstick_by_labels, yardstick_by_reference
from pipeline.zoo.graphs.canonical import standard_form
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.onnx_file import load_graph, save_model
from pipeline.zoo.quantization.calibration import Batch, Method, Report
from pipeline.zoo.quantization.float_layers import fewest_in_float, named_layers, rank_layers
from pipeline.zoo.quantization.qdq import QuantizationPlan
from pipeline.zoo.quantization.quantize import Calibrated, calibrate, is_grouped
from pipeline.zoo.quantization.rounding import correct_biases

if TYPE_CHECKING:
    import onnx

AUTO = "auto"
CALIBRATION_PICTURES = 128
"""More change the ranges hardly any further and take longer."""
_HELD_OUT_EVERY = 4
_FEWEST_TO_HOLD_OUT = 8


@dataclass(frozen=True)
class Request:
    """What to make of which model.

    `images` is the folder to calibrate with, `test` labelled data to measure with. `keep_float`
    are layers, names or patterns, or `AUTO` alone: then as few as a loss of `max_loss` points
    takes. `spec` says what a model made by others expects.
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
    """What the int8 file is like; accuracies in percent, called as the yardstick is.

    `float_layers` are those left in float on request or by measurement, of `layers` in all.
    """

    yardstick: Yardstick
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


class _Pictures(NamedTuple):
    """What to calibrate with and, without labels, what to measure with."""

    calibrate: list[Path]
    measure: list[Path]


def quantize_file(request: Request, report: Report) -> QuantizeReport:
    """Write the int8 form of `request.model` to `request.output`, whole or not at all.

    `report` hears of the progress.

    Raises `InputError` where the model, the pictures or the labels cannot be used, `RunError`
    where something breaks.
    """
    opened = open_model(request.model, spec=request.spec)
    spec = opened.spec
    pictures = _choose_pictures(request.images, report, hold_out=request.test is None)
    standard = standard_form(load_graph(opened.path), spec)
    labelled = _yardstick_by_labels(request, standard.spec, pictures.measure)
    rewritten, heads = heads_as_products(widen_stem(standard.model))
    keep_float = [*heads, *standard.float_nodes]
    if request.keep_float != (AUTO,):  # names that there are not are said before the work
        named_layers(QuantizationPlan(rewritten, keep_float).layers, request.keep_float)
    batches = _batches(request.images, pictures.calibrate, spec, report)
    has_groups = any(node.op_type == "Conv" and is_grouped(node) for node in rewritten.graph.node)
    if has_groups:  # their weights say little about one another: what rounding adds is taken off
        rewritten = correct_biases(rewritten, batches)
    calibrated = calibrate(
        rewritten, batches, keep_float=keep_float, method=request.method,
        jointly=not has_groups, for_any=True, report=report,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vision-") as name:
        bench = _Bench(Path(name), standard.spec, calibrated, report)
        save_model(standard.model, standard.spec, bench.float32)
        bench.choose_yardstick(labelled, request.images, pictures.measure)
        kept = bench.choose_layers(request, batches)
        after = bench.measure(kept)
        timings = measure_speed(bench.float32, bench.int8)
        size = bench.int8.stat().st_size
        result = QuantizeReport(
            bench.yardstick, bench.before, after, stored_bytes(opened.path), size, timings,
            len(calibrated.layers), kept, len(pictures.calibrate),
        )  # fmt: skip
        final = msgspec.structs.replace(standard.spec, name=request.output.stem)
        save_model(bench.build(kept), final, request.output)
    return result


class _Bench:
    """Builds int8 forms of one network in a folder, and measures them."""

    yardstick: Yardstick
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

    def choose_yardstick(
        self, labelled: Yardstick | None, folder: Path, pictures: Sequence[Path]
    ) -> None:
        """The labels if there are any, else the float network itself."""
        self._report("measuring", 0, 1)
        self.yardstick = labelled or yardstick_by_reference(
            self._spec, self.float32, folder, pictures
        )
        self.before = self.yardstick.measure(self.float32)

    def choose_layers(self, request: Request, batches: Sequence[Batch]) -> list[str]:
        """The layers to leave in float."""
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
        """The figure of the network with some layers in float; leaves it in `self.int8`."""
        key = tuple(float_layers)
        save_model(self.build(float_layers), self._spec, self.int8)
        if key not in self._measured:
            self._measured[key] = self.yardstick.measure(self.int8)
        done = len(self._measured)
        self._report("measuring", done, done)
        return self._measured[key]

    def build(self, float_layers: Sequence[str]) -> onnx.ModelProto:
        """The int8 form with some layers in float."""
        layers = self._calibrated.layers
        return self._calibrated.quantize([n for layer in float_layers for n in layers[layer]])


def _yardstick_by_labels(
    request: Request, spec: ModelSpec, pictures: Sequence[Path]
) -> Yardstick | None:
    """True answers to measure by, None where there are none."""
    if request.test is not None:
        return yardstick_by_labels(spec, request.test)
    if spec.task == "detect" and (request.images / "labels").is_dir():
        return yardstick_by_labels(spec, request.images, pictures)
    return None


def _choose_pictures(folder: Path, report: Report, *, hold_out: bool) -> _Pictures:
    """Every fourth picture that decodes is measured with, unless there are too few."""
    some = spread(find_pictures(folder), 2 * CALIBRATION_PICTURES)
    usable = [path for path, _ in _read(folder, some, report, "checking pictures")]
    if not usable:
        raise InputError(f"{folder}: expected pictures to calibrate with, but none decodes")
    if not hold_out or len(usable) < _FEWEST_TO_HOLD_OUT:
        chosen = spread(usable, CALIBRATION_PICTURES)
        return _Pictures(chosen, chosen)
    others = [path for index, path in enumerate(usable) if index % _HELD_OUT_EVERY]
    return _Pictures(spread(others, CALIBRATION_PICTURES), usable[::_HELD_OUT_EVERY])


def _batches(folder: Path, paths: Sequence[Path], spec: ModelSpec, report: Report) -> list[Batch]:
    """What the network gets of each picture (1, height, width, 3).

    Of a classifier's that is the middle of it and, as of a box in the pipeline, all of it.
    """
    batches: list[Batch] = []
    for _, image in _read(folder, paths, report, "reading pictures"):
        views = _crops if spec.task == "classify" else _whole
        batches += [view[None] for view in views(image, spec.input)]
    return batches


def _read(
    folder: Path, paths: Sequence[Path], report: Report, job: str
) -> Iterator[tuple[Path, Image]]:
    """Those that decode; `report` hears of each, since large ones take a while."""
    report(job, 0, len(paths))
    for done, found in enumerate(UsablePictures(folder, paths), 1):
        yield found
        report(job, done, len(paths))


def network_picture(image: Image, entry: InputSpec) -> Image:
    """A picture at the size of a detector's input."""
    height, width = image.shape[:2]
    out = np.empty((entry.height, entry.width, 3), np.uint8)
    resize_into(image, out, place(width, height, entry.width, entry.height, entry.fit))
    return out


def _whole(image: Image, entry: InputSpec) -> list[Image]:
    return [network_picture(image, entry)]


def _crops(image: Image, entry: InputSpec) -> list[Image]:
    box = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
    crop = np.empty((entry.height, entry.width, 3), np.uint8)
    crop_into(image, box, crop)
    return [np.ascontiguousarray(tested_crop(image, entry.width, entry.height)), crop]
