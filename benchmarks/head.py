"""`python -m benchmarks.head`: accuracy of a new head on ten classes of Caltech-101.

The head is fitted to ten images per class and tested on all other images of the classes (at most 46
each in the archive), through the file that is written. The first row uses the first ten classes in
alphabetical order, the others random ones. One of two classes with the same images (Faces_easy) and
the background (BACKGROUND_Google) are left out.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.images import read_image
from pipeline.inference.classifier import Classifier
from pipeline.inference.registry import find_model
from pipeline.zoo.classifier_head import fit_new_head
from pipeline.zoo.datasets.image_folders import class_folders
from pipeline.zoo.onnx_file import load_model, write_atomically

ARCHIVE = "images/caltech101-192.tar"
LEFT_OUT = ("BACKGROUND_Google", "Faces_easy")
CLASSES = 10
FITTED = 10


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(options.data / ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        classes = class_folders(next(path for path in folder.iterdir() if path.is_dir()))
        known = [label for label in classes if label not in LEFT_OUT]
        rows = []
        for draw in range(options.draws + 1):
            rng = np.random.default_rng(draw)
            chosen = known[:CLASSES] if draw == 0 else rng.permutation(known)[:CLASSES].tolist()
            row = measure({label: classes[label] for label in chosen}, options.classifier, rng)
            rows.append({"classes": chosen, **row})
            print(
                f"{'alphabet' if draw == 0 else f'draw {draw}':9}"
                f"top-1 {row['top1']:5.1f} % of {row['tested']}, "
                f"cross-validated {row['cross_validated']:5.1f} %, {row['seconds']:.1f} s",
                flush=True,
            )
    mean = float(np.mean([row["top1"] for row in rows[1:] or rows]))
    print(f"mean of {len(rows[1:] or rows)} draws: top-1 {mean:.1f} %")
    if options.json:
        write_atomically(options.json, f"{json.dumps(rows, indent=2)}\n".encode())


def measure(
    classes: dict[str, list[Path]], classifier: str, rng: np.random.Generator
) -> dict[str, float]:
    """Fit to random images of each class, and test on the rest."""
    with tempfile.TemporaryDirectory() as name:
        fitted, tested = Path(name) / "fit", []
        for class_id, (label, paths) in enumerate(sorted(classes.items())):
            (fitted / label).mkdir(parents=True)
            order = [paths[index] for index in rng.permutation(len(paths))]
            for path in order[:FITTED]:
                (fitted / label / path.name).symlink_to(path)
            tested += [(path, class_id) for path in order[FITTED:]]
        output = Path(name) / "head.onnx"
        start = time.perf_counter()
        model, spec = load_model(find_model(classifier))
        result = fit_new_head(model, spec, fitted, output, lambda *_: None)
        seconds = time.perf_counter() - start
        classify = Classifier(output, top=1)
        right = 0
        for path, class_id in tested:
            image = read_image(path)
            box = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
            right += int(classify(image, box).ids[0, 0] == class_id)
    return {
        "top1": 100 * right / len(tested),
        "tested": len(tested),
        "cross_validated": result.fit.accuracy,
        "seconds": seconds,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with images/")
    parser.add_argument(
        "--classifier", default="mobilenetv2-int8", help="the backbone [%(default)s]"
    )
    parser.add_argument(
        "--draws", type=int, default=10, help="random sets of classes [%(default)s]"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser


if __name__ == "__main__":
    main()
