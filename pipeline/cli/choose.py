"""`vision choose`: which network of a family fits this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt
from pipeline.cli.waiting import interruptible, progress_bar
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.zoo.choose import Candidate, Choice
    from pipeline.zoo.latency import Machine

MOST_THREADS = 256
CLASSIFY, DETECT = "classify", "detect"
_UNKNOWN = "-"


def choose(
    task: Annotated[
        str,
        typer.Option(metavar="classify|detect", help="MobileNets that classify, or YOLOv4-tiny"),
    ] = CLASSIFY,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="name the most accurate one that takes no longer", show_default=False
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="measure the quantised networks, not the float ones")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_THREADS, metavar="COUNT", help="cores to use [all]", show_default=False
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="your own class count [1000; for detectors 1,80]",
            show_default=False,
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="detectors' input sizes in pixels [256,288,...,608]",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="only members with this in their name", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="also show members that a faster one beats")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="measure again what is known of this machine")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="draw accuracy over latency", show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="write all figures", show_default=False),
    ] = None,
    debug: opt.Debug = None,
) -> None:
    """Measure a family of networks on this machine and show which are worth their time.

    Every member is built with random weights and timed as `vision run` would run it. Accuracy is
    the published one of the trained float network. Figures are kept: a second call answers at once.

    Examples: `vision choose --budget-ms 3 --int8`; for a detector of two classes
    `vision choose --task detect --classes 2 --int8 --budget-ms 10`.
    """
    console.configure(debug=bool(debug))
    _check(budget_ms, plot, json_file)
    candidates = _candidates(task, _numbers("--classes", classes), _numbers("--sizes", sizes), only)

    from pipeline.inference.session import available_threads
    from pipeline.zoo.choose import best_within, measure_all
    from pipeline.zoo.latency import LatencyCache, this_machine

    threads = threads or available_threads()
    machine = this_machine(threads)
    cache = LatencyCache(machine)
    if not fresh:
        cache.load()
    with interruptible(), progress_bar() as report:
        choices = measure_all(candidates, cache, threads=threads, int8=int8, report=report)
    best = {} if budget_ms is None else best_within(choices, budget_ms)
    _show(choices, best, task, everything=everything)
    _say_what_was_measured(machine, choices, task, int8=int8)
    if budget_ms is not None:
        _answer(choices, best, budget_ms, task)
    if json_file is not None:
        _write_json(json_file, machine, choices, best, task, budget_ms, int8=int8)
    if plot is not None:
        _draw(plot, choices, best, machine, task, int8=int8)


def _check(budget_ms: float | None, plot: Path | None, json_file: Path | None) -> None:
    """Everything that could be wrong with the options, before anything is measured."""
    from pipeline.output.files import check_target

    if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
        raise ConfigError(f"--budget-ms: expected milliseconds above 0, got {budget_ms}")
    if json_file is not None:
        check_target(json_file, "--json", is_replaced=True)
    if plot is not None:
        from pipeline.zoo.plots import check_plot_path

        check_target(check_plot_path(plot), "--plot", is_replaced=True)
        if json_file is not None and plot.resolve() == json_file.resolve():
            raise ConfigError(f"--plot {plot}: is the file of --json too; choose another")


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers apart by commas."""
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(
            f"{option}: expected whole numbers apart by commas, got '{text}'"
        ) from None


def _candidates(
    task: str, classes: tuple[int, ...] | None, sizes: tuple[int, ...] | None, only: str | None
) -> list[Candidate]:
    from pipeline.zoo import choose as zoo

    if task == DETECT:
        found = zoo.detectors(sizes or zoo.DETECTOR_SIZES, classes or zoo.DETECTOR_CLASSES)
    elif task == CLASSIFY:
        if sizes is not None:
            raise ConfigError("--sizes: is for detectors; a MobileNet's size is in its name")
        if classes is not None and len(classes) != 1:
            raise ConfigError(f"--classes: expected one number for classifiers, got {len(classes)}")
        found = zoo.classifiers(*(classes or ()))
    else:
        raise ConfigError(f"--task: expected {CLASSIFY} or {DETECT}, got '{task}'")
    kept = [candidate for candidate in found if (only or "") in candidate.name]
    if not kept:
        names = ", ".join(candidate.name for candidate in found)
        raise ConfigError(f"--only: no member's name holds '{only}'; there are {names}")
    return kept


def _show(
    choices: Sequence[Choice], best: Mapping[str, Choice], task: str, *, everything: bool
) -> None:
    """The table in order of latency, the chosen ones marked."""
    accuracy = ("top-1 %", "top-5 %") if task == CLASSIFY else ("AP %", "AP50 %")
    rows = []
    for choice in choices:
        if not (everything or choice.on_frontier):
            continue
        candidate, measured = choice.candidate, choice.measured
        rows.append(
            (
                "*" if choice in best.values() else "",
                candidate.name,
                f"{measured.latency_ms:.2f}",
                _percent(candidate.accuracy),
                _percent(candidate.more),
                f"{measured.multiply_adds / 1e6:.0f}",
                f"{measured.parameters / 1e6:.2f}",
                f"{measured.file_bytes / 1e6:.1f}",
            )
        )
    columns = ("", "member", "ms here", *accuracy, "M MACs", "M params", "MB")
    console.show_table(columns, rows)
    hidden = len(choices) - len(rows)
    if hidden:
        print(f"\n{hidden} more are slower than one that is as accurate; --all shows them")


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f}"


def _say_what_was_measured(
    machine: Machine, choices: Sequence[Choice], task: str, *, int8: bool
) -> None:
    print(
        f"\nmeasured on {machine.processor}, {_cores(machine)}, ONNX Runtime "
        f"{machine.onnxruntime}: {_form(int8)} networks with random weights, one picture a call"
    )
    sources = sorted({c.candidate.source for c in choices if c.candidate.source})
    if sources:
        data = "ImageNet" if task == CLASSIFY else "COCO"
        print(f"accuracy: published, of float networks on {data} ({'; '.join(sources)})")
    if int8:
        print("int8 costs some of it, how much 'vision quantize' measures for your weights")


def _answer(
    choices: Sequence[Choice], best: Mapping[str, Choice], budget_ms: float, task: str
) -> None:
    """The most accurate within the budget; of detectors, whose accuracy is unknown, the largest."""
    for group in dict.fromkeys(choice.candidate.group for choice in choices):
        of_group = f" for {group}" if group else ""
        chosen = best.get(group)
        if chosen is None:
            fastest = next(c for c in choices if c.candidate.group == group)
            print(
                f"nothing{of_group} takes {budget_ms:g} ms or less; the fastest is "
                f"{fastest.candidate.name} with {fastest.measured.latency_ms:.2f} ms"
            )
            continue
        if task == CLASSIFY:
            print(f"most accurate within {budget_ms:g} ms: {_described(chosen)}")
            _say_what_is_trained(choices, chosen, budget_ms)
        else:
            print(
                f"largest input{of_group} within {budget_ms:g} ms: {_described(chosen)} "
                "(train at that size, then measure it with 'vision evaluate')"
            )


def _described(choice: Choice) -> str:
    accuracy, latency = choice.candidate.accuracy, choice.measured.latency_ms
    known = "" if accuracy is None else f"{accuracy:.1f} %, "
    return f"{choice.candidate.name}, {known}{latency:.2f} ms"


def _say_what_is_trained(choices: Sequence[Choice], chosen: Choice, budget_ms: float) -> None:
    """Where trained weights of the chosen one are, or of the next best that has some."""
    from pipeline.zoo.choose import best_within

    trained = best_within((c for c in choices if c.candidate.trained), budget_ms).get("")
    if trained is None:
        print("no trained weights within it are among 'vision models list'; train your own")
        return
    what = "" if trained == chosen else f" of the next best, {_described(trained)}"
    model = trained.candidate.trained
    print(f"trained weights{what}: vision models pull {model}")
    print(f"their own accuracy, which may differ: vision models info {model}")


def _write_json(
    path: Path,
    machine: Machine,
    choices: Sequence[Choice],
    best: Mapping[str, Choice],
    task: str,
    budget_ms: float | None,
    *,
    int8: bool,
) -> None:
    import msgspec

    from pipeline.zoo.onnx_file import write_atomically

    names = ("top1_percent", "top5_percent") if task == CLASSIFY else ("ap_percent", "ap50_percent")
    members = [
        {
            "name": choice.candidate.name,
            "family": choice.candidate.family,
            **msgspec.structs.asdict(choice.measured),
            names[0]: choice.candidate.accuracy,
            names[1]: choice.candidate.more,
            "accuracy_source": choice.candidate.source or None,
            "trained_model": choice.candidate.trained or None,
            "on_frontier": choice.on_frontier,
            "chosen": choice in best.values(),
        }
        for choice in choices
    ]
    report = {
        "task": task,
        "int8": int8,
        "budget_ms": budget_ms,
        "machine": msgspec.structs.asdict(machine),
        "members": members,
    }
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    console.say(f"figures: {path}")


def _draw(
    path: Path,
    choices: Sequence[Choice],
    best: Mapping[str, Choice],
    machine: Machine,
    task: str,
    *,
    int8: bool,
) -> None:
    from pipeline.zoo.frontier_plot import plot_choices
    from pipeline.zoo.plots import save_figure

    axis = (
        "published ImageNet top-1 of the float network, %"
        if task == CLASSIFY
        else "side of the input, pixels (accuracy mostly unpublished)"
    )
    title = f"{machine.processor}, {_cores(machine)}, {_form(int8)}"
    save_figure(plot_choices(choices, list(best.values()), title, axis), path)
    console.say(f"picture: {path}")


def _form(int8: bool) -> str:
    return "int8" if int8 else "float"


def _cores(machine: Machine) -> str:
    return "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
