"""`vision quantize`: a float model becomes an int8 one, with a report of what that costs."""

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
    from pipeline.zoo.quantization.quantize_file import QuantizeReport

METHODS = ("mse", "minmax", "entropy", "percentile")


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="float model: a name or an ONNX file", show_default=False),
]
Images = Annotated[
    Path,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="pictures like those that the model will see, to calibrate with; 50 or more",
        show_default=False,
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        "--test",
        metavar="DATA",
        help="labelled pictures to measure with, as for `vision evaluate` [the labels of a "
        "YOLO-format FOLDER, else the agreement with the float model]",
        show_default=False,
    ),
]
Method = Annotated[
    str,
    typer.Option("--method", metavar="|".join(METHODS), help="how each tensor's range is chosen"),
]
KeepFloat = Annotated[
    str | None,
    typer.Option(
        "--keep-float",
        metavar="LAYERS|auto",
        help="layers to leave in float, apart by commas, * for any letters; or auto: the fewest "
        "for --max-loss, found by measuring",
        show_default=False,
    ),
]
MaxLoss = Annotated[
    float,
    typer.Option("--max-loss", metavar="POINTS", min=0.0, max=100.0, help="what auto may lose"),
]


def quantize(
    model: Model,
    images: Images,
    output: opt.NewModel,
    test: Test = None,
    method: Method = METHODS[0],
    keep_float: KeepFloat = None,
    max_loss: MaxLoss = 1.0,
    manifest: opt.Manifest = None,
    yes: opt.Yes = None,
    debug: opt.Debug = None,
) -> None:
    """Make a float model int8, calibrated on your pictures, and say what it cost.

    Examples: `vision quantize mine.onnx --images frames -o mine-int8.onnx`;
    with labels and a limit `vision quantize mine.onnx --images frames --test labelled
    --keep-float auto --max-loss 0.5 -o mine-int8.onnx`.
    """
    from pipeline.errors import ConfigError
    from pipeline.inference.locate import find_model
    from pipeline.inference.manifest import read_manifest

    console.configure(debug=bool(debug))
    offer_models([model], yes=bool(yes))
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
    name = result.yardstick.name
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
            f"ms a call, {timing.threads} thread{'s' if timing.threads > 1 else ''}",
            console.short(timing.float32_ms),
            console.short(timing.int8_ms),
            f"{timing.speedup:.2f} times as fast",
        )
        for timing in result.timings
    ]
    console.show_table(("", "float", "int8", ""), rows)
    kept = result.float_layers
    print(
        f"\ncalibrated on {result.calibrated_on} pictures, measured on {result.yardstick.pictures}"
    )
    print(
        f"layers: {result.layers}, of which in float: {len(kept)}"
        f"{': ' + ', '.join(kept) if kept else ''}"
    )
    print(f"written: {output}")


def _warn(result: QuantizeReport, keep_float: tuple[str, ...], max_loss: float) -> None:
    from pipeline.inference.processor import has_int8_dot_products, processor

    if not has_int8_dot_products(processor().features):
        console.say(
            "warning: this CPU has no int8 dot product (VNNI, or dotprod on Arm): int8 gains "
            "less here than on one that has"
        )
    if keep_float == ("auto",) and result.loss > max_loss:
        console.say(
            f"warning: the loss is {result.loss:.1f} points with all layers in float; expected at "
            f"most {max_loss}"
        )
    elif not keep_float and result.loss > 2:
        console.say("the loss is large; --keep-float auto finds the layers that it comes from")
