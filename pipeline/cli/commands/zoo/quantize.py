"""`vision quantize`: converts a float model to int8 and reports what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import console
from pipeline.cli.option_checks import check_model_target
from pipeline.cli.options import NEW_MODEL, PATH, YES, Argument, Option, command
from pipeline.cli.progress import interruptible, offer_models, progress_bar
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.zoo.quantization.quantize_file import QuantizeReport

METHODS = ("mse", "minmax", "entropy", "percentile")
OPTIONS = (
    Option(
        "--images",
        type=PATH,
        required=True,
        metavar="FOLDER",
        text="images to calibrate with, like those the model will see; 50 or more",
    ),
    Option(
        "--test",
        type=PATH,
        metavar="DATA",
        text="labelled images to measure with, as for 'vision evaluate' [the labels of a "
        "YOLO-format FOLDER, else the agreement with the float model]",
    ),
    Option(
        "--method",
        default=METHODS[0],
        metavar="|".join(METHODS),
        text="how the range of each tensor is chosen",
    ),
    Option(
        "--keep-float",
        metavar="LAYERS|auto",
        text="layers to keep in float, separated by commas, * for any characters; or auto: the "
        "fewest that meet --max-loss, found by measuring",
    ),
    Option(
        "--max-loss",
        type=click.FloatRange(0, 100),
        default=1.0,
        metavar="POINTS",
        text="accuracy that auto may lose, in percentage points",
    ),
)


@command(
    "quantize",
    Argument("model", text="float model: a name or an ONNX file"),
    *OPTIONS,
    NEW_MODEL,
    YES,
)
def quantize(
    model: str,
    images: Path,
    output: Path,
    test: Path | None,
    method: str,
    keep_float: str | None,
    max_loss: float,
    manifest: str | None,
    yes: bool,
) -> None:
    """Convert a float model to int8 and report accuracy, size and speed of both.

    \b
    Examples:
      vision quantize mine.onnx --images frames -o mine-int8.onnx
    With labels and a limit for the loss:
      vision quantize mine.onnx --images frames --test labelled \\
          --keep-float auto --max-loss 0.5 -o mine-int8.onnx
    """
    from pipeline.inference.manifest import read_manifest
    from pipeline.inference.registry import find_model

    offer_models([model], yes=yes)
    path = find_model(model)
    check_model_target(output, path)
    if method not in METHODS:
        raise ConfigError(f"--method {method}: expected one of {', '.join(METHODS)}")
    layers = tuple(part.strip() for part in (keep_float or "").split(",") if part.strip())
    with interruptible(), progress_bar() as report:
        from pipeline.zoo.quantization.quantize_file import Request, quantize_file

        spec = read_manifest(manifest) if manifest else None
        request = Request(
            path, output, images, test, method,  # type: ignore[arg-type]
            keep_float=layers, max_loss=max_loss, spec=spec,
        )  # fmt: skip
        result = quantize_file(request, report)
    _show(result, output)
    _warn(result, request.keep_float, max_loss)


def _show(result: QuantizeReport, output: Path) -> None:
    name = result.metric.name
    rows = [
        (
            f"{name}, %",
            f"{result.before:.1f}",
            f"{result.after:.1f}",
            f"{0.0 - round(result.loss, 1):+.1f}",
        ),
        (
            "size, MB",
            console.short(result.bytes_before / 1e6),
            console.short(result.bytes_after / 1e6),
            f"1/{result.bytes_before / result.bytes_after:.1f}",
        ),
    ]
    rows += [
        (
            f"ms per call, {timing.threads} thread{'s' if timing.threads > 1 else ''}",
            console.short(timing.float32_ms),
            console.short(timing.int8_ms),
            f"{timing.speedup:.2f} times as fast",
        )
        for timing in result.timings
    ]
    console.show_table(("", "float", "int8", ""), rows)
    kept = result.float_layers
    console.show(
        "", f"calibrated on {result.calibrated_on} images, measured on {result.metric.images}"
    )
    console.show(
        f"layers: {result.layers}, of which in float: {len(kept)}"
        f"{': ' + ', '.join(kept) if kept else ''}"
    )
    console.show(f"written: {output}")


def _warn(result: QuantizeReport, keep_float: tuple[str, ...], max_loss: float) -> None:
    from pipeline.inference.processor import has_int8_dot_products, processor

    if not has_int8_dot_products(processor().features):
        console.say(
            "warning: this CPU has no int8 dot product (VNNI, or dotprod on Arm), so int8 gains "
            "less here than on CPUs with one"
        )
    if keep_float == ("auto",) and result.loss > max_loss:
        console.say(
            f"warning: the loss is {result.loss:.1f} points with all layers in float; expected at "
            f"most {max_loss}"
        )
    elif not keep_float and result.loss > 2:
        console.say("the loss is large; --keep-float auto finds the layers that cause it")
