"""`vision evaluate`: measures the accuracy of a detector or a classifier on labelled images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli import console
from pipeline.cli.option_checks import check_new_files
from pipeline.cli.options import FIGURES, PATH, YES, Argument, Option, command
from pipeline.cli.progress import interruptible, offer_models, progress_bar

if TYPE_CHECKING:
    from pipeline.cli.progress import Report
    from pipeline.inference.session import Model
    from pipeline.types import Image
    from pipeline.zoo.datasets.image_folders import ReadableImages
    from pipeline.zoo.evaluation.classification import ClassifierReport
    from pipeline.zoo.evaluation.detection import Accuracy

CLASSES_SHOWN = 10

MODEL = Argument("model", text="model name or ONNX file")
DATA = Argument(
    "data",
    type=PATH,
    text="for a detector a COCO JSON, a YOLO-format folder or Pascal VOC; for a classifier a "
    "folder with one sub-folder per class, or a text file of images and classes",
)
IMAGES = Option(
    "--images", type=PATH, metavar="FOLDER", text="folder of the images, if DATA does not say it"
)
PLOT = Option(
    "--plot",
    type=PATH,
    metavar="FILE",
    text="draw precision over recall, or the confusion matrix (.png, .svg, .pdf)",
)


@command("evaluate", MODEL, DATA, IMAGES, FIGURES, PLOT, YES)
def evaluate(
    model: str,
    data: Path,
    images: Path | None,
    json_file: Path | None,
    plot: Path | None,
    threads: int | None,
    manifest: str | None,
    yes: bool,
    **thresholds: Any,
) -> None:
    """Measure a model: COCO's AP for a detector, top-1 and top-5 for a classifier.

    --score, --nms and --nms-kind apply to detectors. The default of --score is low because AP
    ranks all detections.

    \b
    Examples:
      vision evaluate yolov4-tiny-int8 instances_val2017.json --images val2017
      vision evaluate mine.onnx folder --json figures.json --plot curves.png
    For photos/tabby/*.jpg, photos/vase/*.jpg and so on:
      vision evaluate mobilenetv2-int8 photos
    """
    offer_models([model], yes=yes)
    opened = _open(model, threads, manifest)
    if plot:
        from pipeline.zoo.plots import check_plot_path

        check_plot_path(plot)

    targets = {"--json": json_file, "--plot": plot}
    check_targets = partial(_check_targets, targets, [opened.path, data, manifest])
    check_targets([])
    task = opened.spec.task
    measure = partial(_detector, settings=thresholds) if task == "detect" else _classifier
    with interruptible(), progress_bar() as progress:
        figures, drawing = measure(opened, data, images, check_targets, progress)
        report = {"model": model, "task": task, "data": str(data), **figures}
        _write(report, json_file, drawing, plot)
    _show(report)


def _check_targets(
    targets: dict[str, Path | None], read: list[Path | str | None], images: Iterable[Path]
) -> None:
    check_new_files(targets, [*read, *images])


def _open(model: str, threads: int | None, manifest: str | None) -> Model:
    from pipeline.inference.manifest import read_manifest
    from pipeline.inference.session import Runtime, open_model

    spec = read_manifest(manifest) if manifest else None
    return open_model(model, runtime=Runtime(threads=threads), spec=spec)


def _detector(
    model: Model,
    data: Path,
    images: Path | None,
    check_targets: Callable[[Iterable[Path]], None],
    progress: Report,
    *,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], Any]:
    """The figures of a detector, and the function that draws them."""
    from pipeline.inference.detector import Detector
    from pipeline.zoo.datasets.boxes import read_boxes
    from pipeline.zoo.datasets.image_folders import ReadableImages
    from pipeline.zoo.evaluation.detection import evaluate_detector, open_to_evaluate

    detect: Detector = open_to_evaluate(
        model.path,
        score_threshold=settings["score"],
        nms_threshold=settings["nms"],
        nms_kind=settings["nms_kind"],
        threads=model.threads,
        spec=model.spec,
    )
    labelled = read_boxes(data, model.spec.labels, images, progress)
    readable = ReadableImages(data, [image.path for image in labelled])
    check_targets(readable.paths)
    found = evaluate_detector(detect, labelled, lambda: _shown(readable, "detecting", progress))
    labels = _distinct(model.spec.labels)
    figures = {
        "pictures": found.images,
        "skipped": len(readable.damaged),
        **settings,
        "metrics": _detector_metrics(found),
        "classes": {
            labels[one.class_id]: {"AP": one.ap, "AP50": one.ap50, "boxes": one.boxes}
            for one in found.classes
        },
    }
    return figures, partial(_draw_curves, found, f"{model.path.stem}: mean of the classes")


def _draw_curves(found: Accuracy, title: str) -> Any:
    from pipeline.zoo.evaluation.detection import RECALLS
    from pipeline.zoo.plots import plot_precision_recall

    curves = {"IoU 0.50": found.precision50, "IoU 0.75": found.precision75}
    known = {name: curve for name, curve in curves.items() if curve is not None}
    return plot_precision_recall(known, RECALLS, title)


def _detector_metrics(found: Accuracy) -> dict[str, float | None]:
    return {
        "AP": found.ap,
        "AP50": found.ap50,
        "AP75": found.ap75,
        "APsmall": found.small,
        "APmedium": found.medium,
        "APlarge": found.large,
    }


def _classifier(
    model: Model,
    data: Path,
    images: Path | None,
    check_targets: Callable[[Iterable[Path]], None],
    progress: Report,
) -> tuple[dict[str, Any], Any]:
    """The figures of a classifier, and the function that draws them."""
    from pipeline.zoo.datasets.classes import read_classes
    from pipeline.zoo.datasets.image_folders import ReadableImages
    from pipeline.zoo.evaluation.classification import evaluate_classifier

    classes = read_classes(data, model.spec.labels, images)
    readable = ReadableImages(data, list(classes))
    check_targets(readable.paths)
    found = evaluate_classifier(model, classes, _shown(readable, "classifying", progress))
    labels = _distinct(model.spec.labels)
    figures = {
        "pictures": len(found.classes),
        "skipped": len(readable.damaged),
        "metrics": found.accuracy._asdict(),
        "classes": _per_class(found, labels),
    }
    return figures, partial(_draw_confusion, found, labels, model.path.stem)


def _draw_confusion(found: ClassifierReport, labels: Sequence[str], name: str) -> Any:
    from pipeline.zoo.evaluation.classification import confusion
    from pipeline.zoo.plots import plot_confusion

    table = confusion(found)
    names = [labels[class_id] for class_id in table.class_ids]
    return plot_confusion(table.counts, names, f"{name}: {found.accuracy.top1:.1f} % correct")


def _distinct(labels: Sequence[str]) -> list[str]:
    """The labels, with the class number for a label of several classes (ImageNet's crane)."""
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{label} ({number})"
        for number, label in enumerate(labels)
    ]


def _per_class(found: ClassifierReport, labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy in percent and number of images of each class."""
    rows = {}
    for class_id in sorted(set(found.classes.tolist())):
        right = found.answers[found.classes == class_id] == class_id
        rows[labels[class_id]] = {"top1": 100.0 * float(right.mean()), "pictures": len(right)}
    return rows


def _shown(readable: ReadableImages, job: str, progress: Report) -> Iterator[tuple[Path, Image]]:
    total = len(readable.paths)
    progress(job, 0, total)
    for done, pair in enumerate(readable, start=1):
        yield pair
        progress(job, done, total)


def _write(report: dict[str, Any], json: Path | None, draw: Any, plot: Path | None) -> None:
    """Write the requested files, each one completely or not at all."""
    from json import dumps

    from pipeline.files.writing import write_atomically
    from pipeline.zoo.plots import save_figure

    if plot:
        save_figure(draw(), plot)
    if json:
        write_atomically(json, f"{dumps(report, indent=2)}\n".encode())


def _show(report: dict[str, Any]) -> None:
    """Print the figures of all classes together, and of the worst classes."""
    metrics = report["metrics"]
    skipped = f", {report['skipped']} skipped" if report["skipped"] else ""
    images = f"{report['pictures']} image{'' if report['pictures'] == 1 else 's'}"
    console.show(f"{report['model']} on {images} of {report['data']}{skipped}, percent")
    console.show_table(tuple(metrics), [tuple(_percent(value) for value in metrics.values())])
    classes = report["classes"]
    columns = list(next(iter(classes.values()), {}))
    if len(classes) < 2:
        return
    worst = sorted(classes, key=lambda label: classes[label][columns[0]])[:CLASSES_SHOWN]
    console.show("")
    console.show_table(
        (f"worst of {len(classes)} classes", *columns),
        [(label, *(_percent(classes[label][column]) for column in columns)) for label in worst],
    )


def _percent(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"
