"""One run, from its settings to its exit: opens all, feeds the outputs, closes all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from pipeline.cli.inputs import check_addresses, open_source
from pipeline.cli.outputs import Origin, Outputs
from pipeline.cli.signals import StopSignals
from pipeline.engine import Pipeline
from pipeline.errors import ConfigError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.inference.manifest import manifest_for
from pipeline.output.output import Output, Stop
from pipeline.settings import NO_CLASSIFIER, Settings
from pipeline.source import Source
from pipeline.sources import AnySource
from pipeline.types import Result

R = TypeVar("R", bound="Runner")

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What gives the results while it is entered: a `Pipeline`."""

    def __enter__(self: R) -> R: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __iter__(self) -> Iterator[Result]: ...
    def stop(self) -> None: ...
    def record_output(self, duration_ns: int) -> None: ...
    def stats(self) -> dict[str, Any]: ...


def run_session(
    settings: Settings,
    signals: StopSignals,
    extras: Iterable[Output] = (),
    open_frames: Callable[[Settings], AnySource] = open_source,
) -> None:
    """Run the pipeline that `settings` describe until its source, its limits or a signal end it.

    `signals` have been entered; `extras` are outputs beside those of the settings, closed as well.
    Raises what `pipeline.errors` has for each thing that can go wrong.
    """
    # What the user may have mistyped comes first, and of that what is looked at the quickest.
    check_addresses(settings)
    with Outputs(settings, extras) as outputs:
        detector, classifier = _models(settings)
        with open_frames(settings) as source:
            pipeline = Pipeline(
                source,
                detector,
                classifier,
                every_frame=False if settings.group else settings.every_frame,
                threads=settings.threads,
                max_frames=settings.max_frames,
                duration_s=settings.duration,
            )
            deliver(source, pipeline, outputs, signals)


def _models(settings: Settings) -> tuple[Detector, Classifier | None]:
    named = manifest_for("classify", settings.manifest)
    if named and settings.classifier == NO_CLASSIFIER:
        raise ConfigError(f"--manifest {named}: describes a classifier, but --classifier is none")
    detector = Detector(
        settings.detector,
        score_threshold=settings.score,
        nms_threshold=settings.nms,
        nms_kind=settings.nms_kind,
        threads=settings.threads,
        manifest=manifest_for("detect", settings.manifest),
    )
    if settings.classifier == NO_CLASSIFIER:
        return detector, None
    classifier = Classifier(
        settings.classifier, top=settings.top, threads=settings.threads, manifest=named
    )
    return detector, classifier


def pass_on(
    source: Source[Any], settings: Settings, outputs: Outputs, signals: StopSignals
) -> None:
    """Give the outputs what `source` gives, without inference, until something ends it."""
    pipeline = Pipeline(
        source,
        every_frame=settings.every_frame,
        # The results of several detectors become due together where one was waited for.
        capacity=max(1, len(settings.subscribe)),
        max_frames=settings.max_frames,
        duration_s=settings.duration,
    )
    deliver(source, pipeline, outputs, signals)


def deliver(source: Origin, runner: Runner, outputs: Outputs, signals: StopSignals) -> None:
    """Give the outputs what the runner makes of the source, until there is no more or enough."""
    outputs.await_subscriber(source)

    def stats() -> dict[str, Any]:
        return {**runner.stats(), **_counts(source, outputs)}

    try:
        with runner:
            try:
                outputs.start(source, stats)
                signals.stop = runner.stop
                _deliver_all(runner, outputs, signals)
            finally:
                signals.begin_closing()
    finally:
        outputs.finish(stats)


def _deliver_all(runner: Runner, outputs: Outputs, signals: StopSignals) -> None:
    for result in runner:
        started_ns = time.perf_counter_ns()
        try:
            with signals.interruptible():
                outputs.write(result)
        except Stop as wish:
            logger.debug("%s", wish)
            return
        runner.record_output(time.perf_counter_ns() - started_ns)


def _counts(source: Origin, outputs: Outputs) -> dict[str, Any]:
    """What the source and the outputs count themselves, where they do."""
    counts: dict[str, Any] = {
        name: round(getattr(source, name), 3)
        for name in ("reconnects", "gap_s", "late")
        if hasattr(source, name)
    }
    received = getattr(source, "counts", None)
    if received is not None:
        counts["received"] = received()
    return {**counts, **outputs.counts}
