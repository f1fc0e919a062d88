"""What `vision choose` found, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import console

if TYPE_CHECKING:
    from pipeline.zoo.selection.candidates import Choice
    from pipeline.zoo.selection.latency import Machine

CLASSIFY, DETECT = "classify", "detect"
_UNKNOWN = "-"
_TRAIN = "train at that size, then measure it with 'vision evaluate'"


@dataclass(frozen=True)
class ChoiceReport:
    """All members with their measurements on `machine`, and which of them fit `budget_ms`."""

    task: str
    int8: bool
    budget_ms: float | None
    machine: Machine
    choices: Sequence[Choice]

    @cached_property
    def best(self) -> dict[str, Choice]:
        """By group, the most accurate within the budget; none without a budget."""
        from pipeline.zoo.selection.candidates import best_within

        return {} if self.budget_ms is None else best_within(self.choices, self.budget_ms)

    def show(self, *, everything: bool) -> None:
        """Print the table in order of latency, what was measured, and the answer."""
        self._show_table([c for c in self.choices if everything or c.on_frontier])
        self._say_what_was_measured()
        if self.budget_ms is not None:
            for group in dict.fromkeys(choice.candidate.group for choice in self.choices):
                self._answer(group, self.budget_ms)

    def write_json(self, path: Path) -> None:
        """Store all figures. Raises `OutputError` where the file cannot be written."""
        import msgspec

        from pipeline.zoo.onnx_file import write_atomically

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
        """Store a picture of the frontier. Raises `OutputError` where it cannot be written."""
        from pipeline.zoo.plots import save_figure
        from pipeline.zoo.selection.frontier_plot import plot_choices

        axis = (
            "published ImageNet top-1 of the float network, %"
            if self.task == CLASSIFY
            else "side of the input, pixels (accuracy mostly unpublished)"
        )
        title = f"{self.machine.processor}, {self._cores}, {self._form}"
        save_figure(plot_choices(self.choices, list(self.best.values()), title, axis), path)
        console.say(f"picture: {path}")

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
        columns = ("", "member", "ms here", *accuracy, "M MACs", "M params", "MB")
        console.show_table(columns, rows)
        if hidden := len(self.choices) - len(rows):
            print(f"\n{hidden} more are slower than one that is as accurate; --all shows them")

    def _say_what_was_measured(self) -> None:
        print(
            f"\nmeasured on {self.machine.processor}, {self._cores}, ONNX Runtime "
            f"{self.machine.onnxruntime}: {self._form} networks with random weights, "
            "one picture a call"
        )
        sources = sorted({c.candidate.source for c in self.choices if c.candidate.source})
        if sources:
            data = "ImageNet" if self.task == CLASSIFY else "COCO"
            print(f"accuracy: published, of float networks on {data} ({'; '.join(sources)})")
        if self.int8:
            print("int8 costs some of it, how much 'vision quantize' measures for your weights")

    def _answer(self, group: str, budget_ms: float) -> None:
        """The most accurate of a group; of detectors, whose accuracy is unknown, the largest."""
        of_group = f" for {group}" if group else ""
        chosen = self.best.get(group)
        if chosen is None:
            fastest = next(c for c in self.choices if c.candidate.group == group)
            print(
                f"nothing{of_group} takes {budget_ms:g} ms or less; the fastest is "
                f"{fastest.candidate.name} with {fastest.measured.latency_ms:.2f} ms"
            )
        elif self.task == CLASSIFY:
            print(f"most accurate within {budget_ms:g} ms: {_described(chosen)}")
            self._say_what_is_trained(chosen, budget_ms)
        else:
            trained = chosen.candidate.trained
            how = f"trained weights: vision models pull {trained}" if trained else _TRAIN
            print(f"largest input{of_group} within {budget_ms:g} ms: {_described(chosen)} ({how})")

    def _say_what_is_trained(self, chosen: Choice, budget_ms: float) -> None:
        """Where trained weights of the chosen one are, or of the next best that has some."""
        from pipeline.zoo.selection.candidates import best_within

        trained = best_within((c for c in self.choices if c.candidate.trained), budget_ms).get("")
        if trained is None:
            print(
                f"'vision models list' has trained weights of none that takes {budget_ms:g} ms or "
                "less; train your own"
            )
            return
        what = "" if trained == chosen else f" of the next best, {_described(trained)}"
        model = trained.candidate.trained
        print(f"trained weights{what}: vision models pull {model}")
        print(
            f"their own accuracy may differ: see 'vision models info {model}', and measure it with "
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
