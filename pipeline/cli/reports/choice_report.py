"""Reports the measurements of `vision choose` as a table, as JSON and as a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console

if TYPE_CHECKING:
    from pipeline.zoo.candidates import Choice
    from pipeline.zoo.latency import Machine

CLASSIFY, DETECT = "classify", "detect"
_UNKNOWN = "-"
_TRAIN = "train at that size, then measure with 'vision evaluate'"


@dataclass(frozen=True)
class ChoiceReport:
    """All networks with their measurements on `machine`, and which of them fit `budget_ms`."""

    task: str
    int8: bool
    budget_ms: float | None
    machine: Machine
    choices: Sequence[Choice]

    @cached_property
    def best(self) -> dict[str, Choice]:
        """The most accurate network of each group within the budget; none without a budget."""
        from pipeline.zoo.candidates import best_within

        return {} if self.budget_ms is None else best_within(self.choices, self.budget_ms)

    def show(self, *, everything: bool) -> None:
        """Print the table in order of latency, how it was measured, and the choice."""
        self._show_table([c for c in self.choices if everything or c.on_frontier])
        self._print_conditions()
        if self.budget_ms is not None:
            for group in dict.fromkeys(choice.candidate.group for choice in self.choices):
                self._print_choice(group, self.budget_ms)

    def write_json(self, path: Path) -> None:
        """Write all figures as JSON. Raises `OutputError` if the file cannot be written."""
        import msgspec

        from pipeline.files.writing import write_atomically

        report = {
            "task": self.task,
            "int8": self.int8,
            "budget_ms": self.budget_ms,
            "machine": msgspec.structs.asdict(self.machine),
            "members": [self._member(choice) for choice in self.choices],
        }
        write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
        console.say(f"figures: {path}")

    def draw(self, path: Path) -> None:
        """Plot accuracy over latency. Raises `OutputError` if the file cannot be written."""
        from pipeline.zoo.plots import plot_choices, save_figure

        axis = (
            "published ImageNet top-1 of the float network, %"
            if self.task == CLASSIFY
            else "input size, pixels (accuracy mostly unpublished)"
        )
        title = f"{self.machine.processor}, {self._cores}, {self._form}"
        save_figure(plot_choices(self.choices, list(self.best.values()), title, axis), path)
        console.say(f"plot: {path}")

    @property
    def _form(self) -> str:
        return "int8" if self.int8 else "float"

    @property
    def _cores(self) -> str:
        count = self.machine.threads
        return "1 thread" if count == 1 else f"{count} threads"

    def _show_table(self, shown: Sequence[Choice]) -> None:
        accuracy = ("top-1 %", "top-5 %") if self.task == CLASSIFY else ("AP %", "AP50 %")
        rows = []
        for choice in shown:
            candidate, measured = choice.candidate, choice.measured
            rows.append(
                (
                    "*" if choice in self.best.values() else "",
                    candidate.name,
                    f"{measured.latency_ms:.2f}",
                    _percent(candidate.accuracy),
                    _percent(candidate.more),
                    f"{measured.multiply_adds / 1e6:.0f}",
                    f"{measured.parameters / 1e6:.2f}",
                    f"{measured.file_bytes / 1e6:.1f}",
                )
            )
        columns = ("", "network", "ms here", *accuracy, "M MACs", "M params", "MB")
        console.show_table(columns, rows)
        if hidden := len(self.choices) - len(rows):
            console.show(
                "", f"{hidden} more are slower and no more accurate than another; --all shows them"
            )

    def _print_conditions(self) -> None:
        console.show(
            "",
            f"measured on {self.machine.processor}, {self._cores}, ONNX Runtime "
            f"{self.machine.onnxruntime}: {self._form} networks with random weights, "
            "one image per call",
        )
        sources = sorted({c.candidate.source for c in self.choices if c.candidate.source})
        if sources:
            data = "ImageNet" if self.task == CLASSIFY else "COCO"
            console.show(
                f"accuracy: as published for float networks on {data} ({'; '.join(sources)})"
            )
        if self.int8:
            console.show(
                "int8 costs some accuracy; 'vision quantize' measures how much for your weights"
            )

    def _print_choice(self, group: str, budget_ms: float) -> None:
        """Print the most accurate network of a group, or the largest of a group of detectors."""
        of_group = f" for {group}" if group else ""
        chosen = self.best.get(group)
        if chosen is None:
            fastest = next(c for c in self.choices if c.candidate.group == group)
            console.show(
                f"no network{of_group} takes {budget_ms:g} ms or less; the fastest is "
                f"{fastest.candidate.name} with {fastest.measured.latency_ms:.2f} ms"
            )
        elif self.task == CLASSIFY:
            console.show(f"most accurate within {budget_ms:g} ms: {_described(chosen)}")
            self._print_trained(chosen, budget_ms)
        else:
            trained = chosen.candidate.trained
            how = f"trained weights: vision models pull {trained}" if trained else _TRAIN
            console.show(
                f"largest input{of_group} within {budget_ms:g} ms: {_described(chosen)} ({how})"
            )

    def _print_trained(self, chosen: Choice, budget_ms: float) -> None:
        """Print where to get trained weights of the choice, or of the next best network."""
        from pipeline.zoo.candidates import best_within

        trained = best_within((c for c in self.choices if c.candidate.trained), budget_ms).get("")
        if trained is None:
            console.show(
                f"'vision models list' has no trained weights that take {budget_ms:g} ms or less; "
                "train your own"
            )
            return
        what = "" if trained == chosen else f" of the next best, {_described(trained)}"
        model = trained.candidate.trained
        console.show(f"trained weights{what}: vision models pull {model}")
        console.show(
            f"their accuracy may differ: see 'vision models info {model}', and measure it with "
            "'vision evaluate'"
        )

    def _member(self, choice: Choice) -> dict[str, object]:
        import msgspec

        first, second = ("top1", "top5") if self.task == CLASSIFY else ("ap", "ap50")
        return {
            "name": choice.candidate.name,
            "family": choice.candidate.family,
            **msgspec.structs.asdict(choice.measured),
            f"{first}_percent": choice.candidate.accuracy,
            f"{second}_percent": choice.candidate.more,
            "accuracy_source": choice.candidate.source or None,
            "trained_model": choice.candidate.trained or None,
            "on_frontier": choice.on_frontier,
            "chosen": choice in self.best.values(),
        }


def _described(choice: Choice) -> str:
    accuracy, latency = choice.candidate.accuracy, choice.measured.latency_ms
    known = "" if accuracy is None else f"{accuracy:.1f} %, "
    return f"{choice.candidate.name}, {known}{latency:.2f} ms"


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f}"
