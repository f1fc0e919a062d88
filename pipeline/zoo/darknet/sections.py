"""Splits Darknet cfg files into sections, and reads the values of their options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ModelError

T = TypeVar("T")

ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "logistic", "tanh", "mish", "swish")

_LARGEST = 2**31 - 1
_LONGEST_SHOWN = 60


class Section:
    """One `[kind]` with its options; errors name the line."""

    def __init__(self, path: Path, kind: str, line: int) -> None:
        self.path, self.kind, self.line = path, kind, line
        self._options: dict[str, tuple[str, int]] = {}

    def add(self, name: str, value: str, line: int) -> None:
        """Add an option; of several with one name Darknet uses the first."""
        self._options.setdefault(name, (value, line))

    def error(self, message: str, line: int | None = None) -> ModelError:
        return ModelError(f"{self.path}: line {line or self.line}: [{self.kind}] {message}")

    def wrong(self, name: str, message: str) -> ModelError:
        return self.error(f"{name}: {message}", self.line_of(name))

    def names(self) -> dict[str, int]:
        return {name: line for name, (_, line) in self._options.items()}

    def text(self, name: str, default: str) -> str:
        return self._options.get(name, (default, 0))[0]

    def line_of(self, name: str) -> int:
        return self._options.get(name, ("", self.line))[1]

    def numbers(self, name: str, kind: Callable[[str], T], minimum: T | None = None) -> list[T]:
        """Return the comma-separated values of an option, none if it is absent."""
        text = self.text(name, "")
        try:
            values = [kind(part) for part in text.split(",") if part]
            is_usable = all(abs(value) <= _LARGEST for value in values)  # type: ignore[arg-type]
        except ValueError:
            is_usable = False
        if not is_usable:
            expected = "whole numbers" if kind is int else "numbers"
            raise self.wrong(
                name, f"expected {expected} of at most {_LARGEST}, but got '{short(text)}'"
            )
        if minimum is not None and any(not value >= minimum for value in values):  # type: ignore[operator]
            raise self.wrong(name, f"expected at least {minimum}, but got '{short(text)}'")
        return values

    def number(
        self, name: str, kind: Callable[[str], T], default: T | None, minimum: T | None = None
    ) -> T:
        """Return the single value of an option, which is required unless there is a default."""
        values = self.numbers(name, kind, minimum)
        if not values and default is not None:
            return default
        if len(values) != 1:
            got = f"{len(values)} values" if values else "none"
            raise self.wrong(name, f"expected one value, but got {got}")
        return values[0]

    def integer(self, name: str, default: int | None = None, minimum: int | None = None) -> int:
        return self.number(name, int, default, minimum)

    def flag(self, name: str) -> bool:
        return self.integer(name, 0) != 0

    def require(self, name: str, value: float) -> None:
        """Check that an option is absent or has the only supported value."""
        got = self.number(name, float, float(value))
        if got != value:
            raise self.error(
                f"{name}={self.text(name, '')} is not supported, only {name}={value}",
                self.line_of(name),
            )

    def activation(self, default: str) -> str:
        name = self.text("activation", default)
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise self.error(
                f"activation '{name}' is not supported; supported are {known}",
                self.line_of("activation"),
            )
        return name

    def same_both_ways(self, name: str, default: int) -> int:
        """Return a value that may also be given per axis, but must be equal for both."""
        value = self.integer(name, default, minimum=1)
        for axis in (f"{name}_x", f"{name}_y"):
            if axis in self._options:
                self.require(axis, value)
        return value


def short(text: str) -> str:
    """The beginning of a text for a message."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def read_sections(path: Path, text: str) -> list[Section]:
    """Split the text as Darknet does: whitespace is ignored, # and ; begin comments."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.split()).split("#", 1)[0]
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            sections.append(Section(path, line.strip("[]").lower(), number))
            continue
        name, equals, value = line.partition("=")
        if not sections or not equals:
            raise ModelError(
                f"{path}: line {number}: expected [layer] or option=value, "
                f"but got {short(raw.strip())!r}"
            )
        sections[-1].add(name, value, number)
    return sections
