"""Training crops and their features by the backbone and the teacher."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, ModelError
from pipeline.files.writing import write_atomically
from pipeline.images import read_image
from pipeline.types import Image
from pipeline.zoo.classifier_head import Head
from pipeline.zoo.datasets.yolo import read_yolo_folder
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs, require_onnx
from recipes.crops import box_crops, imagenet_crop, random_crop, read_images, whole_image
from recipes.imagenet_labels import CLASSES

Half = npt.NDArray[np.float16]

_BATCH = 16
_REPORT_EVERY = 2000
_SAMPLE_EVERY = 80


class Crop(NamedTuple):
    """Pixels for the network, the ImageNet class or -1, and whether this is the test crop."""

    image: Image
    class_id: int
    is_test: bool = False


class TrainingImages(NamedTuple):
    """Archives and folders of training images; `imagenet` has one per class, sorted by class."""

    imagenet: Path
    caltech: Path
    coco: Path


@dataclass(frozen=True)
class Examples:
    """One row per crop: features of both networks, class id or -1, whether it is the test crop.

    `samples` (k, 224, 224, 3) are the pixels of evenly spread crops, to calibrate int8 with.
    """

    features: Half
    teacher_features: Half
    class_ids: npt.NDArray[np.int32]
    is_test: npt.NDArray[np.bool_]
    samples: npt.NDArray[np.uint8]

    def save(self, path: Path) -> None:
        """Write all arrays to the NumPy archive `path`."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read a file written by `save`."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})


class Teacher:
    """A classifier that ends in a linear layer on averaged features.

    The file takes RGB pixels in [-1, 1], [N, 3, 224, 224], and computes 1001 logits, of which the
    first, background, is left out. Raises `ModelError` if the graph has another end.
    """

    def __init__(self, path: Path) -> None:
        onnx = require_onnx()
        if not path.is_file():
            raise ModelError(f"{path}: expected the teacher network, but it does not exist")
        model = onnx.load(path)
        pools = [node for node in model.graph.node if node.op_type == "GlobalAveragePool"]
        last = [
            node
            for node in model.graph.node
            if pools and node.op_type == "Conv" and node.input[0] == pools[-1].output[0]
        ]
        if not last:
            raise ModelError(f"{path}: expected a GlobalAveragePool and one convolution at its end")
        arrays = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        weight, bias = (arrays[name] for name in last[0].input[1:3])
        self.head = Head(weight.reshape(len(weight), -1)[-CLASSES:], bias.ravel()[-CLASSES:])
        self._features = pools[-1].output[0]
        self._session = open_with_outputs(model, [self._features])
        self._entry = self._session.get_inputs()[0].name

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return averaged features (n, q) of uint8 BGR crops (n, 224, 224, 3)."""
        rgb = pixels[..., ::-1].astype(np.float32) / 127.5 - 1.0
        (found,) = self._session.run(
            [self._features], {self._entry: np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))}
        )
        return np.asarray(found.reshape(len(pixels), -1), np.float32)


def training_crops(images: TrainingImages, seed: int = 0) -> Iterator[Crop]:
    """Yield crops of all images in a fixed order."""
    count = 0
    for class_id, (_name, image) in enumerate(read_images(images.imagenet)):
        rng = np.random.default_rng([seed, 0, class_id])
        central = imagenet_crop(image)
        yield Crop(central, class_id, is_test=True)
        yield Crop(central[:, ::-1], class_id)
        yield Crop(whole_image(image), class_id)
        for _ in range(6):
            yield Crop(random_crop(image, rng, (0.25, 1.0)), class_id)
        for _ in range(4):  # close-ups of texture, which help the unseen classes
            yield Crop(random_crop(image, rng, (0.04, 0.25)), class_id)
        count = class_id + 1
    if count != CLASSES:
        raise InputError(
            f"{images.imagenet}: expected one image of each of {CLASSES} classes, "
            f"but it has {count}"
        )
    for index, (_name, image) in enumerate(read_images(images.caltech)):
        rng = np.random.default_rng([seed, 1, index])
        yield Crop(whole_image(image), -1)
        for _ in range(2):
            yield Crop(random_crop(image, rng, (0.25, 1.0)), -1)
    for index, labelled in enumerate(read_yolo_folder(images.coco)):
        rng = np.random.default_rng([seed, 2, index])
        image = read_image(labelled.path)
        for _ in range(12):
            yield Crop(random_crop(image, rng, (0.08, 1.0)), -1)
        for crop in box_crops(image, labelled.boxes, 4, rng):
            yield Crop(crop, -1)


def collect_examples(
    backbone: ModelProto, teacher: Teacher, crops: Iterable[Crop], say: Callable[[str], None]
) -> Examples:
    """Run both networks over `crops`; `say` receives progress."""
    session = open_with_outputs(backbone)
    entry, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    rows: list[tuple[Half, Half]] = []
    class_ids: list[int] = []
    is_test: list[bool] = []
    samples: list[Image] = []
    stream = iter(crops)
    while batch := list(itertools.islice(stream, _BATCH)):
        pixels = np.stack([crop.image for crop in batch])
        (features,) = session.run([output], {entry: pixels})
        rows.append((features.astype(np.float16), teacher(pixels).astype(np.float16)))
        if len(class_ids) % _SAMPLE_EVERY < _BATCH:
            samples.append(pixels[0])
        class_ids += [crop.class_id for crop in batch]
        is_test += [crop.is_test for crop in batch]
        if len(class_ids) % _REPORT_EVERY < _BATCH:
            say(f"{len(class_ids)} crops processed by both networks")
    return Examples(
        np.concatenate([row[0] for row in rows]),
        np.concatenate([row[1] for row in rows]),
        np.array(class_ids, np.int32),
        np.array(is_test, np.bool_),
        np.stack(samples),
    )
