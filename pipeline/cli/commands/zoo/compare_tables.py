"""The tables of `vision compare`, for the terminal and for the page."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.cli.console import short
from pipeline.zoo.evaluation.comparison import Comparison, Contender, summarize

UNKNOWN = "-"
_ABLE = {"detect": "detection", "classify": "classification"}
_ANSWERS = {
    "detect": "several objects per image, each with its class, score and box",
    "classify": "the classes of one object: of a whole image, or of a box that a detector found",
}
_USES = {
    "detect": "finding, counting, tracking and avoiding objects",
    "classify": "classifying detected objects; sorting images",
}


class Table(NamedTuple):
    """A table with its title and the notes below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


def tables(found: Comparison) -> list[Table]:
    """The answers and costs; where no two models can be compared, what each model can do."""
    if not found.is_comparable:
        return [_capabilities(found.contenders), _costs(found)]
    return [_answers(found), _costs(found)]


def _answers(found: Comparison) -> Table:
    count = len(found.images)
    rest = f" (the first {count} of {found.total} images)" if count < found.total else ""
    rows = [
        [shown.name if index == 0 else "", contender.name, summarize(answer)]
        for shown in found.images
        for index, (contender, answer) in enumerate(
            zip(found.contenders, shown.answers, strict=True)
        )
    ]
    return Table(f"Answers{rest}", ["image", "model", "answer"], rows)


def _costs(found: Comparison) -> Table:
    columns = [
        "model", "task", "input", "classes", "ms per image", "MB", "M parameters", "M MACs",
        "published, %", "licence",
    ]  # fmt: skip
    rows = [
        [
            contender.name,
            _ABLE[contender.task],
            contender.input_size,
            str(len(contender.labels)),
            short(contender.latency_ms),
            short(contender.file_bytes / 1e6),
            _millions(contender.parameters, 2),
            _millions(contender.multiply_adds, 0),
            contender.published or UNKNOWN,
            contender.licence or UNKNOWN,
        ]
        for contender in found.contenders
    ]
    if found.is_comparable:
        columns.insert(4, "agreement")
        for row, percent in zip(rows, found.agreement, strict=True):
            row.insert(4, UNKNOWN if percent is None else f"{percent:.0f} %")
        title = "Agreement with the first model of the same task, and cost on this machine"
    else:
        title = "Cost on this machine"
    return Table(title, columns, rows, _sources(found.contenders))


def _sources(contenders: list[Contender]) -> tuple[str, ...]:
    """Sources of the published figures, each once."""
    lines = (f"{c.name}: {c.published} by {c.published_source}" for c in contenders if c.published)
    return tuple(dict.fromkeys(lines))


def _capabilities(contenders: list[Contender]) -> Table:
    facts = {
        "task": [_ABLE[contender.task] for contender in contenders],
        "answers": [_ANSWERS[contender.task] for contender in contenders],
        "locates objects": ["yes" if c.task == "detect" else "no" for c in contenders],
        "several objects": ["yes" if c.task == "detect" else "no" for c in contenders],
        "classes": [_classes(contender) for contender in contenders],
        "used for": [_USES[contender.task] for contender in contenders],
    }
    rows = [[name, *values] for name, values in facts.items()]
    title = "No two of these models have a task in common; this is what each can do"
    return Table(title, ["", *(contender.name for contender in contenders)], rows)


def _classes(contender: Contender) -> str:
    labels = [label.partition(",")[0] for label in contender.labels]
    shown = ", ".join(labels[:3])
    return f"{len(labels)}: {shown}, ..." if len(labels) > 3 else f"{len(labels)}: {shown}"


def _millions(count: int | None, digits: int) -> str:
    return UNKNOWN if count is None else f"{count / 1e6:,.{digits}f}"
