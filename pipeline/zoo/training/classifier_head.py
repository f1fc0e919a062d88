"""A classifier of a user's own classes on the features of one that exists.

The last linear layer of a classifier is cut off and another put in its place; the backbone stays
as it is, int8 or float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, ModelError
from pipeline.inference.classifier import CONTEXT, crop_into
from pipeline.inference.spec import ModelSpec
from pipeline.types import Image
from pipeline.zoo.datasets.image_folders import UsablePictures, class_folders
from pipeline.zoo.graphs.canonical import standard_form
from pipeline.zoo.onnx_file import require_onnx, save_model
from pipeline.zoo.quantization.calibration import Report, open_with_outputs
from pipeline.zoo.training.linear_classifier import Head, LabelFit, Rows, fit_labels

if TYPE_CHECKING:
    import onnx

LOGITS = "logits"
VIEWS = 8
"""Rows of features that one picture gives."""

_LINEAR = ("MatMul", "Gemm", "Conv")
_PASSING = (
    *("Flatten", "Reshape", "Squeeze", "Transpose", "Identity", "Softmax", "Add", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear"),
)
"""What may stand between the last linear layer and the answer."""

_SHARE = (0.55, 1.0)  # of either side of the picture, in a random part of it
_SQUEEZE = 0.2  # the logarithm of how much shorter a side may be than the other


@dataclass(frozen=True)
class FittedHead:
    """What was fitted, and to how much: `pictures` by label, `skipped` that do not decode."""

    spec: ModelSpec
    fit: LabelFit
    pictures: dict[str, int]
    skipped: int


def fit_new_head(
    model: onnx.ModelProto, spec: ModelSpec, images: Path, output: Path, report: Report
) -> FittedHead:
    """Write the classifier of the classes in `images`, a folder with a sub-folder for each.

    `model` answers the logits that its `spec` names. A float one made by others is brought to our
    form first.

    Raises `InputError` where there are fewer than two classes or two pictures of one, or where
    pictures do not decode; `ModelError` where the model does not end in a linear layer;
    `OutputError` where `output` cannot be written.
    """
    folders = class_folders(images)
    if spec.input.dtype != "uint8":
        model, spec, _ = standard_form(model, spec)
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


def features_of(model: onnx.ModelProto, spec: ModelSpec) -> str:
    """The tensor that the last linear layer before the logits reads.

    Raises `ModelError` where something else stands there.
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
    found = f"a {node.op_type}" if node is not None else "nothing"
    raise ModelError(
        f"{spec.name}: expected a classifier that ends in a linear layer, but before "
        f"'{spec.logits}' stands {found}"
    )


def replace_head(model: onnx.ModelProto, features: str, head: Head) -> onnx.ModelProto:
    """A copy that answers `head` of the tensor `features` as its only output."""
    onnx = require_onnx()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    _keep_up_to(graph, features)
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    rows, weight, bias, logits = (
        _unused(name, used) for name in ("own.rows", "own.weight", "own.bias", LOGITS)
    )
    graph.node.append(make("Flatten", [features], [rows], name=rows, axis=1))
    graph.node.append(make("Gemm", [rows, weight, bias], [logits], name=logits, transB=1))
    for name, array in ((weight, head.weight), (bias, head.bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del graph.output[:]
    graph.output.append(value(logits, onnx.TensorProto.FLOAT, ["N", len(head.bias)]))
    return result


def views(image: Image, width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """What the backbone sees of a picture, (8, height, width, 3), cropped as boxes are.

    First all of it, then that mirrored, its middle, and random parts of it, every other mirrored.
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
            f"{images}: expected a sub-folder of pictures for each of two classes or more, "
            f"but found only {', '.join(folders)}"
        )
    for name, paths in folders.items():
        if len(paths) < 2:
            raise InputError(f"{images / name}: expected two pictures or more, but got 1")


def _collect(
    model: onnx.ModelProto,
    spec: ModelSpec,
    features: str,
    images: Path,
    folders: dict[str, list[Path]],
    report: Report,
) -> tuple[Rows, dict[str, int], int]:
    """The features of all views of all pictures, pictures a class, and how many do not decode."""
    session = open_with_outputs(model, [features])
    names = list(folders)
    class_of = {path: names.index(name) for name, paths in folders.items() for path in paths}
    pictures = UsablePictures(images, list(class_of))
    found: list[npt.NDArray[np.float32]] = []
    classes: list[int] = []
    for path, image in pictures:
        pixels = views(image, spec.input.width, spec.input.height, seed=len(classes))
        found += [_features(session, spec, features, view) for view in pixels]
        classes.append(class_of[path])
        report("looking at pictures", len(classes), len(class_of))
    counts = np.bincount(classes, minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if count < 2:
            raise InputError(
                f"{images / name}: expected two pictures or more that decode, but got {count}"
            )
    numbers = np.arange(len(classes))
    rows = Rows(np.stack(found), np.repeat(classes, VIEWS), np.repeat(numbers, VIEWS))
    totals = dict(zip(names, counts.tolist(), strict=True))
    return rows, totals, len(pictures.damaged)


def _features(
    session: Any, spec: ModelSpec, name: str, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    (values,) = session.run([name], {spec.input.name: pixels[None]})
    return np.asarray(values, np.float32).ravel()


def _is_constant(name: str, makers: dict[str, Any], constants: set[str]) -> bool:
    """Whether a tensor is stored in the file, maybe as integers that are dequantised first."""
    while name in makers and makers[name].op_type == "DequantizeLinear":
        name = makers[name].input[0]
    node = makers.get(name)
    return name in constants or (node is not None and node.op_type == "Constant")


def _unused(name: str, used: set[str]) -> str:
    """`name`, lengthened until it is not among the used ones: a head may be replaced again."""
    while name in used:
        name += "."
    return name


def _keep_up_to(graph: Any, tensor: str) -> None:
    """Leave only the nodes and constants that `tensor` is made from."""
    makers = {name: node for node in graph.node for name in node.output}
    needed, waiting = set(), [tensor]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers[name].input if name in makers else ()
    _filter(graph.node, lambda node: needed & set(node.output))
    _filter(graph.initializer, lambda constant: constant.name in needed)
    del graph.value_info[:]


def _filter(entries: Any, is_kept: Callable[[Any], object]) -> None:
    kept: Sequence[Any] = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del entries[:]
    entries.extend(entry for entry in kept if is_kept(entry))
