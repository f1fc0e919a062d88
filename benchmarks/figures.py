"""What a benchmark reports: a named figure, its target and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is a bound in the direction of `at_least`; None: no bound."""

    name: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = True
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target
