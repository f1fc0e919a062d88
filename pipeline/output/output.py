"""The interface of an output: what every consumer of results can do."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.types import Result

Self = TypeVar("Self", bound="Output")


class Stop(Exception):  # noqa: N818 - a wish, not an error
    """Raised by `Output.write` to end the run, as after the last frame and without an error.

    The user has closed the window, or the reader of a pipe has gone.
    """


class Output(abc.ABC):
    """A consumer of results, used by one thread; a context manager that closes it.

    - `name`: its name in the statistics
    - `wants_images`: only results with their image are written; others are counted
    - `may_block`: a write may take long, so the output is fed by a thread of its own: of a live
      source it gets the newest results, of others all of them
    """

    name: ClassVar[str] = ""
    wants_images: ClassVar[bool] = False
    may_block: bool = False

    def wants(self, camera: str) -> bool:
        """Whether results of a camera are of use now; others are not written."""
        return True

    def wait_ready(self) -> None:  # noqa: B027 - optional
        """Wait until results may begin, such as for a subscriber; before the source is read."""

    def start(self, source: Source[Any]) -> None:  # noqa: B027 - optional
        """Prepare for results of `source`, which is running; called before the first `write`.

        Existing files are not touched before. Raises `InputError` if it cannot be written.
        """

    @abc.abstractmethod
    def write(self, result: Result) -> None:
        """Take one result. Raises `OutputError` if it cannot be written, `Stop` to end the run."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finish; files are readable afterwards. Idempotent.

        Raises `OutputError` if what was written cannot be finished.
        """

    def hurry(self) -> None:  # noqa: B027 - optional
        """The user waits for the end: what takes longer than a moment in `close` is left behind."""

    def rescue(self) -> None:
        """Close from another thread, while the one that uses the output is inside a library."""
        self.close()

    def counts(self) -> Mapping[str, Any]:
        """The output's own figures, for the statistics."""
        return {}

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


class OutputKind(NamedTuple):
    """An output that a setting turns on; `make` raises `InputError` if it cannot be used."""

    setting: str
    output: type[Output]
    make: Callable[[Settings], Output]
