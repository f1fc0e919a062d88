"""One run, from its settings to its exit: opens all, feeds the outputs, closes all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

from pipeline import capture
from pipeline.capture.source import Source
from pipeline.cli.outputs import Outputs
from pipeline.cli.signals import StopSignals
from pipeline.config import NO_CLASSIFIER, Settings
from pipeline.engine import Pipeline
from pipeline.errors import ConfigError, SourceError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.output.output import Output, Stop

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0

logger = logging.getLogger(__name__)


def run_session(settings: Settings, signals: StopSignals, extras: Iterable[Output] = ()) -> None:
    """Run the pipeline that `settings` describe until its source, its limits or a signal end it.

    `signals` have been entered; `extras` are outputs beside those of the settings, closed as well.
    Raises what `pipeline.errors` has for each thing that can go wrong.
    """
    if settings.source is None:
        raise ConfigError(f"SOURCE is missing; expected {capture.FORMS}")
    # What the user may have mistyped comes first: nothing is opened for it in vain.
    detector = Detector(
        settings.detector,
        score_threshold=settings.score,
        nms_threshold=settings.nms,
        nms_kind=settings.nms_kind,
        threads=settings.threads,
    )
    classifier = None
    if settings.classifier != NO_CLASSIFIER:
        classifier = Classifier(settings.classifier, top=settings.top, threads=settings.threads)
    with Outputs(settings, extras) as outputs, _open_source(settings) as source:
        pipeline = Pipeline(
            source,
            detector,
            classifier,
            every_frame=settings.every_frame,
            threads=settings.threads,
            max_frames=settings.max_frames,
            duration_s=settings.duration,
        )
        try:
            with pipeline:
                try:
                    outputs.start(source, pipeline.stats)
                    signals.stop = pipeline.stop
                    _deliver(pipeline, outputs)
                finally:
                    signals.be_patient()
        finally:
            outputs.finish(pipeline.stats())


def _deliver(pipeline: Pipeline, outputs: Outputs) -> None:
    """Give the outputs one result after the other, until there are no more or nobody wants any."""
    for result in pipeline:
        started_ns = time.perf_counter_ns()
        try:
            outputs.write(result)
        except Stop as wish:
            logger.debug("%s", wish)
            return
        pipeline.record_output(time.perf_counter_ns() - started_ns)


def _open_source(settings: Settings) -> Source:
    """Open the source, with `retry` as often as it takes."""
    wait_s = FIRST_RETRY_S
    while True:
        try:
            return _open_once(settings)
        except SourceError as error:
            if not settings.retry:
                raise
            logger.info("%s; trying again in %g s", error, wait_s)
        threading.Event().wait(wait_s)  # a signal breaks it off
        wait_s = min(2 * wait_s, LAST_RETRY_S)


def _open_once(settings: Settings) -> Source:
    """Open the source on a thread, so that a driver that does not answer holds up no signal."""
    future: Future[Source] = Future()

    def attempt() -> None:
        try:
            source = capture.open_source(
                str(settings.source),
                width=settings.width,
                height=settings.height,
                fps=settings.fps,
                fourcc=settings.fourcc,
                open_timeout_s=settings.open_timeout,
                read_timeout_s=settings.read_timeout,
                reconnect=settings.reconnect,
                isolate=settings.isolate,
            )
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(source)

    threading.Thread(target=attempt, name="open", daemon=True).start()
    return future.result()
