"""Models: download, import, build, quantize, train, evaluate and choose them."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Receives progress: the name of the job, the steps done so far and the steps in all."""


def no_report(_job: str, _done: int, _total: int) -> None:
    """Ignore progress."""
