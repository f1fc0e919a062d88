"""`vision head`: a classifier of the user's own classes from a few labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.pulling import offer_models
from pipeline.cli.targets import check_model_target
from pipeline.cli.waiting import interruptible, progress_bar

if TYPE_CHECKING:
    from pipeline.zoo.training.classifier_head import FittedHead


Images = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="pictures, in a sub-folder for each class; its name is the label",
        show_default=False,
    ),
]
Classifier = Annotated[
    str, typer.Option(metavar="MODEL", help="whose features to use: a name or an ONNX file")
]


def head(
    images: Images,
    output: opt.NewModel,
    classifier: Classifier = "mobilenetv2-int8",
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    debug: opt.Debug = None,
) -> None:
    """Teach a classifier your own classes, from two pictures a class or more, in seconds.

    The network's last layer is fitted anew; the rest stays. Ten pictures a class are a good start.

    Example: `vision head --images parts -o parts.onnx` for parts/bolt/*.jpg, parts/nut/*.jpg, ...;
    then `vision run 0 --classifier parts.onnx`.
    """
    from pipeline.inference.locate import find_model
    from pipeline.inference.manifest import read_manifest
    from pipeline.inference.session import open_model
    from pipeline.zoo.onnx_file import load_graph
    from pipeline.zoo.training.classifier_head import fit_new_head

    console.configure(debug=bool(debug))
    offer_models([classifier], yes=bool(yes))
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
        rows.append((label, str(fitted.pictures[label]), f"{share:.0f}", mistaken))
    console.show_table(("class", "pictures", "right %", "taken for"), rows)
    print(
        f"\ntop-1 {fit.accuracy:.1f} % of {len(fit.truth)} pictures, "
        f"each by a head fitted without it ({fit.folds}-fold cross-validation)"
    )
    print(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB")
    print(f"try it: vision run SOURCE --classifier {output}")
