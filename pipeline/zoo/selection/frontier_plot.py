"""A picture of what `choose` found: accuracy over latency, and the line of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.zoo.plots import new_figure
from pipeline.zoo.selection.candidates import Choice

_LINE_HEIGHT = 11.0  # pixels that a name needs above the one below it
_MARKERS = "osD^vP*X"


def plot_choices(
    choices: Sequence[Choice], chosen: Sequence[Choice], title: str, y_label: str
) -> Any:
    """A figure of all `choices`, coloured by family or group, with a line through each frontier.

    The frontier's members are named, as far as there is room, but for those whose height says all
    (networks of one group differ in their input's size only). `chosen` get a ring.
    """
    figure, axes = new_figure(title, "milliseconds a picture on this machine", y_label, size=(8, 6))
    axes.set_xscale("log")
    for number, series in enumerate(sorted(set(map(_series, choices)), key=_natural)):
        of_series = [choice for choice in choices if _series(choice) == series]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.scatter(*_places(of_series), s=26, marker=marker, label=series, zorder=3)
    for group in dict.fromkeys(choice.candidate.group for choice in choices):
        best = [c for c in choices if c.on_frontier and c.candidate.group == group]
        axes.plot(*_places(best), color="0.6", linewidth=1.2, zorder=2)
    rings = {"facecolors": "none", "edgecolors": "black", "zorder": 4}
    axes.scatter(*_places(chosen), s=160, label="chosen", **rings) if chosen else None
    _mark_times(axes, [choice.measured.latency_ms for choice in choices])
    axes.legend(loc="lower right", fontsize="small")
    best = [choice for choice in (*chosen, *choices) if choice.on_frontier]
    _write_names(figure, axes, [choice for choice in best if not choice.candidate.group])
    return figure


def _natural(series: str) -> tuple[int, str]:
    """Class counts by their number."""
    count = series.partition(" ")[0]
    return (int(count), "") if count.isdigit() else (0, series)


def _series(choice: Choice) -> str:
    return choice.candidate.group or choice.candidate.family


def _places(choices: Sequence[Choice]) -> tuple[list[float], list[float]]:
    return (
        [choice.measured.latency_ms for choice in choices],
        [choice.candidate.rank for choice in choices],
    )


def _mark_times(axes: Any, times: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 of every power of ten, with room for names on the left."""
    low, high = 0.4 * min(times), 1.3 * max(times)
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(low, high)


def _write_names(figure: Any, axes: Any, choices: Sequence[Choice]) -> None:
    """Above the line, where no point lies; a name that would lie on one before is left out."""
    figure.draw_without_rendering()
    heights: list[float] = []
    for choice in choices:
        place = (choice.measured.latency_ms, choice.candidate.rank)
        height = axes.transData.transform(place)[1]
        if any(abs(height - other) < _LINE_HEIGHT for other in heights):
            continue
        heights.append(height)
        name = choice.candidate.name.removeprefix("mobilenet_").replace("_", " ")
        axes.annotate(
            name, place, xytext=(-8, 3), textcoords="offset points", ha="right", fontsize=7
        )
