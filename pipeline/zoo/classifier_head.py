"""Replacement of the head of a classifier by one for a user's own classes.

The last linear layer is replaced; the backbone, int8 or float, is unchanged. The new layer is a
ridge regression onto one-hot targets in closed form, with equal weight per class. The strength of
the ridge and the scale of the logits are chosen by cross-validation over images: all views of an
image are in the same fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, ModelError
from pipeline.inference.classifier import CONTEXT, crop_into
from pipeline.inference.spec import ModelSpec
from pipeline.types import Image
from pipeline.zoo import Report
from pipeline.zoo.datasets.image_folders import ReadableImages, class_folders
from pipeline.zoo.graphs.canonical import canonical_form
from pipeline.zoo.graphs.edit import GraphBuilder, clone
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs, require_onnx, save_model

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

RIDGES = (1.0, 3.0)
"""Ridge strengths to choose from, relative to the mean squared length of a centred row."""
_GAINS = tuple(2.0**power for power in range(9))
_FOLDS = 5
_SEED = 0


@dataclass(frozen=True)
class Head:
    """A linear classifier: `weight` (classes, features), `bias` (classes,), float32."""

    weight: Float
    bias: Float

    def __call__(self, features: npt.NDArray[np.floating]) -> Float:
        """Return logits (n, classes) of `features` (n, features)."""
        return np.asarray(features.astype(np.float32) @ self.weight.T + self.bias, np.float32)


class Rows(NamedTuple):
    """Features (n, p) of views of images, and the class (n,) and image number (n,) of each.

    The first row of an image is the view it is tested with.
    """

    features: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]


class LabelFit(NamedTuple):
    """A fitted head, with the cross-validated `answers` (m,) and the `truth` (m,) of each image.

    `accuracy` is the percentage of right answers.
    """

    head: Head
    ridge: float
    folds: int
    answers: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return 100.0 * float(np.mean(self.answers == self.truth))


def fit_labels(rows: Rows) -> LabelFit:
    """Return the head with the highest cross-validated likelihood.

    Raises `InputError` if there are fewer than two classes, or fewer than two images of a class:
    then nothing is left to test it with.
    """
    tested, fold = _folds(rows)
    truth = rows.classes[tested]
    held_out = {ridge: np.empty((len(tested), truth.max() + 1)) for ridge in RIDGES}
    for number in range(fold.max() + 1):
        is_test = fold[tested] == number
        features = rows.features[tested[is_test]]
        chosen = fold != number
        for ridge, (weight, bias) in _solve(rows.features[chosen], rows.classes[chosen]).items():
            held_out[ridge][is_test] = features @ weight + bias
    losses = {
        (_log_loss(gain * outputs, truth), ridge, gain)
        for ridge, outputs in held_out.items()
        for gain in _GAINS
    }
    _, ridge, gain = min(losses)
    weight, bias = _solve(rows.features, rows.classes)[ridge]
    head = Head((gain * weight.T).astype(np.float32), (gain * bias).astype(np.float32))
    return LabelFit(head, ridge, int(fold.max()) + 1, held_out[ridge].argmax(axis=1), truth)


def _folds(rows: Rows) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Return the test row of each image and the fold of every row; classes are spread evenly."""
    images, tested = np.unique(rows.images, return_index=True)
    classes = rows.classes[tested]
    counts = np.bincount(classes)
    if len(counts) < 2:
        raise InputError(f"head: expected two or more classes, but got {len(counts)}")
    if counts.min() < 2:
        raise InputError(
            f"head: expected two or more images of each class, but class {counts.argmin()} "
            f"has {counts.min()}"
        )
    fold = np.empty(len(images), np.int64)
    rng = np.random.default_rng(_SEED)
    for class_id in range(len(counts)):
        members = rng.permutation(np.flatnonzero(classes == class_id))
        fold[members] = np.arange(len(members)) % min(_FOLDS, int(counts.min()))
    return tested, fold[np.searchsorted(images, rows.images)]


def _solve(
    features: npt.NDArray[np.float32], classes: npt.NDArray[np.int64]
) -> dict[float, tuple[Double, Double]]:
    """Return weight (p, k) and bias (k,) for each ridge, from one decomposition."""
    counts = np.bincount(classes)
    share = 1.0 / (len(counts) * counts[classes])
    targets = np.eye(len(counts))[classes]
    mean, target_mean = share @ features, share @ targets
    root = np.sqrt(share)[:, None]
    rows = root * (features - mean)
    wanted = rows.T @ (root * (targets - target_mean))
    is_wide = len(rows) < rows.shape[1]
    values, axes = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    kept = values > values[-1] * 1e-10
    values, axes = values[kept], axes[:, kept]
    if is_wide:
        axes = rows.T @ axes / np.sqrt(values)
    along = axes.T @ wanted
    power = values.sum() / len(features)
    solved = {}
    for ridge in RIDGES:
        weight = axes @ (along / (values + ridge * power)[:, None])
        solved[ridge] = weight, target_mean - mean @ weight
    return solved


def _log_loss(logits: Double, truth: npt.NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, truth[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - right))


LOGITS = "logits"
VIEWS = 8
"""Rows of features per image."""

_LINEAR = ("MatMul", "Gemm", "Conv")
_PASSING = (
    *("Flatten", "Reshape", "Squeeze", "Transpose", "Identity", "Softmax", "Add", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear"),
)
"""Nodes that may follow the last linear layer."""

_SHARE = (0.55, 1.0)  # of either side of the image, in a random crop
_SQUEEZE = 0.2  # logarithm of the largest change of the aspect ratio


@dataclass(frozen=True)
class FittedHead:
    """A fitted head, the number of `images` by label, and of `skipped` unreadable ones."""

    spec: ModelSpec
    fit: LabelFit
    images: dict[str, int]
    skipped: int


def fit_new_head(
    model: ModelProto, spec: ModelSpec, images: Path, output: Path, report: Report
) -> FittedHead:
    """Write a classifier of the classes in `images`, a folder with one sub-folder per class.

    `model` computes the logits that its `spec` names. A third-party float model is converted to
    canonical form first.

    Raises `InputError` if there are fewer than two classes or fewer than two readable images of a
    class; `ModelError` if the model does not end in a linear layer; `OutputError` if `output`
    cannot be written.
    """
    folders = class_folders(images)
    if spec.input.dtype != "uint8":
        model, spec, _ = canonical_form(model, spec)
    _check_folders(images, folders)
    features = features_of(model, spec)
    rows, counts, skipped = _collect(model, spec, features, images, folders, report)
    fit = fit_labels(rows)
    changed = replace_head(model, features, fit.head)
    new_spec = msgspec.structs.replace(
        spec,
        name=output.stem,
        labels=tuple(folders),
        logits=changed.graph.output[0].name,
        source=f"{spec.name} with a head for {len(folders)} classes",
    )
    save_model(changed, new_spec, output)
    return FittedHead(new_spec, fit, counts, skipped)


def features_of(model: ModelProto, spec: ModelSpec) -> str:
    """Return the tensor that the last linear layer before the logits reads.

    Raises `ModelError` if there is no such layer.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    name = str(spec.logits)
    while (node := makers.get(name)) is not None:
        if node.op_type in _LINEAR:
            return str(node.input[0])
        if node.op_type not in _PASSING:
            break
        name = next((i for i in node.input if not _is_constant(i, makers, constants)), "")
    found = f"a {node.op_type}" if node is not None else "no node"
    raise ModelError(
        f"{spec.name}: expected a classifier that ends in a linear layer, but found {found} before "
        f"'{spec.logits}'"
    )


def replace_head(model: ModelProto, features: str, head: Head) -> ModelProto:
    """Return a copy whose only output is `head` of the tensor `features`."""
    onnx = require_onnx()
    result = clone(model)
    builder = GraphBuilder(result)
    builder.nodes = _nodes_before(result.graph, features)
    used = {name for node in builder.nodes for name in (*node.input, *node.output)}
    rows, weight, bias, logits = (
        _unused(name, used) for name in ("own.rows", "own.weight", "own.bias", LOGITS)
    )
    builder.add("Flatten", [features], rows, axis=1)
    parts = [builder.constant(weight, head.weight), builder.constant(bias, head.bias)]
    builder.add("Gemm", [rows, *parts], logits, transB=1)
    builder.store(result)
    value = onnx.helper.make_tensor_value_info
    del result.graph.output[:]
    result.graph.output.append(value(logits, onnx.TensorProto.FLOAT, ["N", len(head.bias)]))
    return result


def views(image: Image, width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return crops (8, height, width, 3) of an image, made as those of boxes are.

    These are all of it, the same mirrored, its centre, and random crops, every other one mirrored.
    """
    rows, columns = image.shape[:2]
    rng = np.random.default_rng(seed)
    middle = min(rows, columns) / CONTEXT
    boxes = [_centred(columns / 2, rows / 2, middle, middle)]
    for _ in range(VIEWS - 3):
        size = rng.uniform(*_SHARE) * np.exp(-rng.uniform(0, _SQUEEZE, 2)) * (columns, rows)
        centre = rng.uniform(size / 2, (columns, rows) - size / 2)
        boxes.append(_centred(*centre, *size))
    pixels = np.empty((VIEWS, height, width, 3), np.uint8)
    crop_into(image, np.array([0, 0, columns, rows], np.float32), pixels[0])
    pixels[1] = pixels[0, :, ::-1]
    for index, box in enumerate(boxes, start=2):
        crop_into(image, box, pixels[index])
        if index % 2:
            pixels[index] = pixels[index, :, ::-1].copy()
    return pixels


def _centred(x: float, y: float, width: float, height: float) -> npt.NDArray[np.float32]:
    half = width / 2, height / 2
    return np.array([x - half[0], y - half[1], x + half[0], y + half[1]], np.float32)


def _check_folders(images: Path, folders: dict[str, list[Path]]) -> None:
    if len(folders) < 2:
        raise InputError(
            f"{images}: expected one sub-folder of images for each of two or more classes, "
            f"but found only {', '.join(folders)}"
        )
    for name, paths in folders.items():
        if len(paths) < 2:
            raise InputError(f"{images / name}: expected two or more images, but got 1")


def _collect(
    model: ModelProto,
    spec: ModelSpec,
    features: str,
    images: Path,
    folders: dict[str, list[Path]],
    report: Report,
) -> tuple[Rows, dict[str, int], int]:
    """Return features of all views, the number of images per class, and of unreadable ones."""
    session = open_with_outputs(model, [features])
    names = list(folders)
    class_of = {path: names.index(name) for name, paths in folders.items() for path in paths}
    readable = ReadableImages(images, list(class_of))
    found: list[npt.NDArray[np.float32]] = []
    classes: list[int] = []
    for path, image in readable:
        pixels = views(image, spec.input.width, spec.input.height, seed=len(classes))
        found += [_features(session, spec, features, view) for view in pixels]
        classes.append(class_of[path])
        report("computing features", len(classes), len(class_of))
    counts = np.bincount(classes, minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if count < 2:
            raise InputError(
                f"{images / name}: expected two or more readable images, but got {count}"
            )
    numbers = np.arange(len(classes))
    rows = Rows(np.stack(found), np.repeat(classes, VIEWS), np.repeat(numbers, VIEWS))
    totals = dict(zip(names, counts.tolist(), strict=True))
    return rows, totals, len(readable.damaged)


def _features(
    session: Any, spec: ModelSpec, name: str, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    (values,) = session.run([name], {spec.input.name: pixels[None]})
    return np.asarray(values, np.float32).ravel()


def _is_constant(name: str, makers: dict[str, Any], constants: set[str]) -> bool:
    """Return whether a tensor is a constant, possibly of integers that are dequantised."""
    while name in makers and makers[name].op_type == "DequantizeLinear":
        name = makers[name].input[0]
    node = makers.get(name)
    return name in constants or (node is not None and node.op_type == "Constant")


def _unused(name: str, used: set[str]) -> str:
    """Return `name`, lengthened until it is unused, since a head may be replaced repeatedly."""
    while name in used:
        name += "."
    return name


def _nodes_before(graph: Any, tensor: str) -> list[Any]:
    """Return the nodes that `tensor` is computed from."""
    makers = {name: node for node in graph.node for name in node.output}
    needed, waiting = set(), [tensor]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers[name].input if name in makers else ()
    return [node for node in graph.node if needed & set(node.output)]
