"""`vision head`: trains a classifier on the user's own classes, from a few labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console
from pipeline.cli.option_checks import check_model_target
from pipeline.cli.options import NEW_MODEL, PATH, YES, Option, command
from pipeline.cli.progress import interruptible, offer_models, progress_bar

if TYPE_CHECKING:
    from pipeline.zoo.classifier_head import FittedHead

IMAGES = Option(
    "--images",
    type=PATH,
    required=True,
    metavar="FOLDER",
    text="images in one sub-folder per class; its name is the label",
)


@command("head", IMAGES, NEW_MODEL, YES)
def head(images: Path, output: Path, classifier: str, manifest: str | None, yes: bool) -> None:
    """Train a classifier on your own classes, in seconds.

    Refits the last layer of --classifier and keeps the rest. Needs at least two images per class;
    ten are a good start. Prints the accuracy measured by cross-validation.

    \b
    Example, for parts/bolt/*.jpg, parts/nut/*.jpg and so on:
      vision head --images parts -o parts.onnx
      vision run 0 --classifier parts.onnx
    """
    from pipeline.inference.manifest import read_manifest
    from pipeline.inference.registry import find_model
    from pipeline.inference.session import open_model
    from pipeline.zoo.classifier_head import fit_new_head
    from pipeline.zoo.onnx_file import load_graph

    offer_models([classifier], yes=yes)
    path = find_model(classifier)
    check_model_target(output, path)
    with interruptible(), progress_bar() as report:
        described = read_manifest(manifest) if manifest else None
        spec = open_model(path, task="classify", spec=described).spec
        fitted = fit_new_head(load_graph(path), spec, images, output, report)
    _show(fitted, output)


def _show(fitted: FittedHead, output: Path) -> None:
    fit, labels = fitted.fit, fitted.spec.labels
    rows = []
    for class_id, label in enumerate(labels):
        answers = fit.answers[fit.truth == class_id]
        wrong = answers[answers != class_id]
        mistaken = ", ".join(sorted({labels[answer] for answer in wrong})) or "-"
        share = 100 * (1 - len(wrong) / len(answers))
        rows.append((label, str(fitted.images[label]), f"{share:.0f}", mistaken))
    console.show_table(("class", "images", "correct %", "mistaken for"), rows)
    console.show(
        "",
        f"top-1 {fit.accuracy:.1f} % of {len(fit.truth)} images "
        f"({fit.folds}-fold cross-validation)",
    )
    console.show(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB")
    console.show(f"try it: vision run SOURCE --classifier {output}")
