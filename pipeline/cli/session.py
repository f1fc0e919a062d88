"""Runs one pipeline, from its settings to its exit."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.signals import StopSignals
from pipeline.cli.sources import check_addresses, open_from_settings
from pipeline.engine import Pipeline
from pipeline.errors import ConfigError
from pipeline.inference.manifest import manifest_for
from pipeline.output.files import check_target, write_stats
from pipeline.output.json_lines import STDOUT
from pipeline.output.output import Output
from pipeline.output.progress import Progress
from pipeline.outputs import Outputs, deliver
from pipeline.settings import NO_MODEL, Settings
from pipeline.source import Source
from pipeline.types import Result

if TYPE_CHECKING:
    from pipeline.inference.classifier import Classifier
    from pipeline.inference.detector import Detector

logger = logging.getLogger(__name__)


def run_session(
    settings: Settings,
    signals: StopSignals,
    extras: Iterable[Output] = (),
    open_frames: Callable[[Settings], Source[Any]] = open_from_settings,
) -> None:
    """Run the pipeline that `settings` describe until its source, its limits or a signal end it.

    `signals` have been entered; `extras` are outputs besides those of the settings. Raises the
    errors of `pipeline.errors`.
    """
    # Check user input first, cheapest checks first.
    check_addresses(settings)
    if settings.stats:
        stats_file = Path(settings.stats)
        check_target(stats_file, "--stats", is_replaced=os.path.isfile(stats_file))
    with Outputs.of(settings, extras) as outputs:
        signals.rescue = outputs.rescue
        detector, classifier = _models(settings)
        with open_frames(settings) as source:
            pipeline = Pipeline(
                source,
                detector,
                classifier,
                every_frame=False if settings.group else settings.every_frame,
                threads=settings.threads,
                # The results of several detectors come at once after one was waited for.
                capacity=1 if detector else max(1, len(settings.subscribe)),
                max_frames=settings.max_frames,
                duration_s=settings.duration,
            )
            _Session(settings, pipeline, outputs, signals).run()


def _models(settings: Settings) -> tuple[Detector | None, Classifier | None]:
    named = manifest_for("classify", settings.manifest)
    if named and settings.classifier == NO_MODEL:
        raise ConfigError(f"--manifest {named}: describes a classifier, but --classifier is none")
    if settings.detector == NO_MODEL:
        return None, None
    from pipeline.inference.classifier import Classifier
    from pipeline.inference.detector import Detector
    from pipeline.inference.session import Runtime

    runtime = Runtime(threads=settings.threads)
    detector = Detector(
        settings.detector,
        score_threshold=settings.score,
        nms_threshold=settings.nms,
        nms_kind=settings.nms_kind,
        runtime=runtime,
        manifest=manifest_for("detect", settings.manifest),
    )
    if settings.classifier == NO_MODEL:
        return detector, None
    classifier = Classifier(settings.classifier, top=settings.top, runtime=runtime, manifest=named)
    return detector, classifier


class _Session:
    """One run: starts the pipeline, feeds the outputs, and reports the figures at the end."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, outputs: Outputs, signals: StopSignals
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._signals = signals
        self._objects = _ObjectCount()
        lines_fill_the_screen = settings.jsonl == STDOUT and sys.stdout.isatty()
        progress = Progress(
            self._stats,
            max_frames=settings.max_frames,
            quiet=settings.quiet or lines_fill_the_screen,
        )
        self._outputs = Outputs([self._objects, outputs, progress])

    def run(self) -> None:
        self._outputs.wait_ready()
        is_started = False
        try:
            self._signals.unblock = self._pipeline.stop
            with self._pipeline:
                is_started = True
                self._signals.stop = self._pipeline.stop
                self._signals.rescue = self._rescue
                try:
                    deliver(
                        self._pipeline, self._outputs, interruptible=self._signals.interruptible
                    )
                finally:
                    self._signals.hurry = self._outputs.hurry
                    self._signals.begin_closing()
        finally:
            try:
                if self._signals.is_noticed:
                    self._outputs.hurry()
                self._outputs.close()
            finally:
                if is_started:
                    self._report()

    def _rescue(self) -> None:
        """Finish the files while the main thread is inside a library."""
        self._outputs.hurry()
        self._outputs.rescue()
        self._pipeline.close()
        self._report()

    def _stats(self) -> dict[str, Any]:
        source = self._pipeline.source
        return {**self._pipeline.stats(), **source.counts(), **self._outputs.counts()}

    def _report(self) -> None:
        stats = self._stats()
        try:
            if self._settings.stats:
                write_stats(Path(self._settings.stats), stats)
        finally:
            logger.info("%s", summary(stats, self._objects.count))


class _ObjectCount(Output):
    """Counts the objects in all results; None without a detector."""

    def __init__(self) -> None:
        self.count: int | None = None

    def write(self, result: Result) -> None:
        if result.detections.labels:
            self.count = (self.count or 0) + len(result.detections)

    def close(self) -> None:
        """Nothing is open."""


def summary(stats: Mapping[str, Any], objects: int | None) -> str:
    """One line for people: frames, objects, rate, ages and losses of a run."""
    age = stats["age_ms"]
    parts = [
        f"{stats['processed']} frames in {stats['seconds']:.1f} s "
        f"({stats['fps']:.1f} frames per second)",
    ]
    if objects is not None:
        parts.append(f"{objects} objects")
    if stats["processed"]:
        parts.append(f"age p50 {age['p50']:.0f} ms, p99 {age['p99']:.0f} ms{_uncertainty(age)}")
    parts += [f"{stats[what]} {what}" for what in ("dropped", "failed") if stats[what]]
    return "; ".join(parts)


def _uncertainty(age: Mapping[str, float | None]) -> str:
    """How far ages may be off if another machine's clock stamped the frames."""
    error = age.get("error", 0)
    if error is None:
        return " (the sender's clock is not known)"
    return f" (plus or minus {error:.0f} ms)" if error >= 1 else ""
