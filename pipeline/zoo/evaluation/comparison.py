"""Comparison of several models: their answers to the same images, and their cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.errors import InputError, ModelError
from pipeline.images import is_image
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.inference.external import stored_bytes
from pipeline.inference.registry import Registered, registered_as, registered_models
from pipeline.inference.session import open_model
from pipeline.inference.spec import ModelSpec
from pipeline.paths import share_dirs
from pipeline.types import Classifications, Detections, Image
from pipeline.zoo import Report
from pipeline.zoo.datasets.classes import plain_name
from pipeline.zoo.datasets.image_folders import ReadableImages, find_images
from pipeline.zoo.evaluation.metrics import Agreement, is_same_label, same_objects
from pipeline.zoo.evaluation.timing import interleaved_ms
from pipeline.zoo.graphs.cost import count_cost
from pipeline.zoo.onnx_file import load_graph

TOP = 5
_CLASS_NAMES = 3
_ROUNDS = 21
_SHARED_NAMES = 0.5

Task = Literal["detect", "classify"]
Answer = Detections | Classifications


@dataclass(frozen=True)
class Contender:
    """A model and its properties; unknown numbers are None.

    `latency_ms` is the median of a whole call on the first image, from pixels to answers.
    """

    name: str
    path: Path
    task: Task
    call: Detector | Classifier
    latency_ms: float
    file_bytes: int
    parameters: int | None
    multiply_adds: int | None
    licence: str
    published: str
    published_source: str

    @property
    def input_size(self) -> str:
        entry = self.call.model.spec.input
        return f"{entry.width}x{entry.height}"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.call.labels


class ComparedImage(NamedTuple):
    """An image and the answer of each contender, in their order."""

    name: str
    image: Image
    answers: list[Answer]


class Comparison(NamedTuple):
    """The result of a comparison.

    `agreement` in percent is with the first model of the same task, None if the classes differ.
    `images` are the first ones, up to the requested number; `total` counts all. There are none if
    no two models have a task in common.
    """

    contenders: list[Contender]
    images: list[ComparedImage]
    agreement: list[float | None]
    total: int

    @property
    def is_comparable(self) -> bool:
        return has_common_task([contender.task for contender in self.contenders])


def has_common_task(tasks: Sequence[str]) -> bool:
    """Return whether any two models have the same task."""
    return len(set(tasks)) < len(tasks)


def compare(
    images: Path, models: Sequence[Detector | Classifier], *, shown: int, report: Report
) -> Comparison:
    """Run every model on `images`, a file or a folder, and time it on the first image.

    A classifier classifies the whole image. Raises `InputError` if there is no image.
    """
    paths = _paths(images)
    readable = ReadableImages(images, paths)
    first = next((image for _, image in readable), None)
    if first is None:
        raise InputError(f"{images}: expected an image, but none can be decoded")
    latencies = _latencies(models, first, report)
    contenders = [_described(*pair) for pair in zip(models, latencies, strict=True)]
    if not has_common_task([contender.task for contender in contenders]):
        return Comparison(contenders, [], [None] * len(contenders), 0)
    leaders = [_leader(contenders, index) for index in range(len(contenders))]
    totals: list[Agreement | None] = [
        None if leader is None else Agreement(0, 0) for leader in leaders
    ]
    kept: list[ComparedImage] = []
    done = 0
    for path, image in readable:
        answers = [ask(contender.call, image) for contender in contenders]
        for index, leader in enumerate(leaders):
            total = totals[index]
            if leader is not None and total is not None:
                totals[index] = total + _agreement(answers[leader], answers[index])
        if len(kept) < shown:
            kept.append(ComparedImage(path.name, image, answers))
        done += 1
        report("running the models", done, len(paths))
    shares = [None if total is None else total.percent for total in totals]
    return Comparison(contenders, kept, shares, done)


def open_contender(
    model: str | Path, *, score: float, threads: int | None, manifest: ModelSpec | None = None
) -> Detector | Classifier:
    """Open a model of any task as the pipeline runs it.

    `manifest` describes a model that has no metadata and is not in the registry.
    """
    spec = _spec_of(model, manifest)
    if spec.task == "detect":
        return Detector(model, score_threshold=score, threads=threads, manifest=spec)
    top = min(TOP, len(spec.labels))
    return Classifier(model, top=top, threads=threads, manifest=spec)


def _spec_of(model: str | Path, manifest: ModelSpec | None) -> ModelSpec:
    try:
        return open_model(model).spec
    except ModelError:
        if manifest is None:
            raise
        return open_model(model, spec=manifest).spec


def ask(call: Detector | Classifier, image: Image) -> Answer:
    """Return the objects in an image, or the classes of the whole image."""
    if isinstance(call, Detector):
        return call(image)
    return call(image, np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32))


def summarize(answer: Answer, most: int = 8) -> str:
    """Return labels and scores of an answer as text, best first."""
    if isinstance(answer, Detections):
        parts = [
            f"{answer.labels[class_id]} {score:.2f}"
            for class_id, score in zip(answer.class_ids, answer.scores, strict=True)
        ]
        rest = f", and {len(parts) - most} more" if len(parts) > most else ""
        return ", ".join(parts[:most]) + rest or "nothing"
    names = zip(answer.ids[0], answer.scores[0], strict=True)
    return ", ".join(
        f"{answer.labels[class_id].partition(',')[0]} {score:.2f}"
        for class_id, score in list(names)[:_CLASS_NAMES]
    )


def _paths(images: Path) -> list[Path]:
    if os.path.isfile(images):
        if not is_image(images):
            raise InputError(f"{images}: expected an image or a folder of images")
        return [images]
    if not os.path.exists(images):
        raise InputError(f"{images}: expected an image or a folder of images, but found nothing")
    return find_images(images)


def _latencies(
    models: Sequence[Detector | Classifier], image: Image, report: Report
) -> list[float]:
    """Return the median milliseconds of a call of each model."""
    calls = [partial(ask, model, image) for model in models]
    for call in calls:
        call()  # the first call allocates memory and may compile
    times = interleaved_ms(calls, _ROUNDS, report)
    return [float(value) for value in np.median(times, axis=0)]


def _described(call: Detector | Classifier, latency_ms: float) -> Contender:
    model = call.model
    cost = count_cost(load_graph(model.path))
    known = _registered(model.path)
    entry = known.entry if known is not None else None
    return Contender(
        name=model.path.stem,
        path=model.path,
        task=model.spec.task,
        call=call,
        latency_ms=latency_ms,
        file_bytes=stored_bytes(model.path),
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        licence=model.spec.licence or (entry.licence if entry else ""),
        published=", ".join(
            f"{name} {value:g}" for name, value in (entry.published if entry else {}).items()
        ),
        published_source=entry.published_source if entry else "",
    )


def _registered(path: Path) -> Registered | None:
    """Return the registry's entry of a file, by its contents, or by its name if it was imported.

    An imported model is recognised only in the folders where `vision models pull` stores it.
    """
    models = registered_models()
    same_name = models.get(path.stem)
    if same_name is not None and same_name.entry.made_by:
        folder = os.path.dirname(os.path.realpath(path))
        is_ours = folder in map(os.path.realpath, share_dirs())
        return same_name if is_ours else None
    return registered_as(path)


def _leader(contenders: Sequence[Contender], index: int) -> int | None:
    """Return the first model of the same task; None for that model itself, or if labels differ.

    Models that share few labels cannot agree.
    """
    task = contenders[index].task
    leader = next(i for i, contender in enumerate(contenders) if contender.task == task)
    names = [
        {plain_name(name) for label in contenders[i].labels for name in label.split(",")}
        for i in (leader, index)
    ]
    shared = len(set.intersection(*names)) / min(map(len, names))
    return None if leader == index or shared < _SHARED_NAMES else leader


def _agreement(first: Answer, second: Answer) -> Agreement:
    if isinstance(first, Detections) and isinstance(second, Detections):
        return same_objects(first, second)
    if isinstance(first, Classifications) and isinstance(second, Classifications):
        names = (answer.labels[int(answer.ids[0, 0])] for answer in (first, second))
        return Agreement(int(is_same_label(*names)), 2)
    raise TypeError("answers of different tasks cannot be compared")
