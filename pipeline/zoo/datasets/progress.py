"""Progress of reading a data set, which takes long if it is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from pipeline.zoo import Report

T = TypeVar("T")

LEAST = 20_000
"""Fewer steps take less than a second and are not reported."""

_STEP = 5_000


def reported(items: Sequence[T], job: str, report: Report) -> Iterator[T]:
    """Yield the items, and report how many of them are done if they are many."""
    total = len(items)
    for done, item in enumerate(items):
        if done % _STEP == 0 and total >= LEAST:
            report(job, done, total)
        yield item
    if total >= LEAST:
        report(job, total, total)
