"""The nodes that run the engine: images in, results out, whatever the images come from."""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from nodes.diagnostics import Activity, Diagnostics
from nodes.frames import OriginHeader
from nodes.image_subscription import ImageSubscription
from nodes.lifecycle import ManagedNode
from nodes.parameters import DETECTION, DIAGNOSTICS, SUBSCRIPTION, Parameter, Value
from nodes.result_publisher import ResultPublisher
from nodes.sources import CaptureSource, Pace, TopicSource
from pipeline.engine import Pipeline
from pipeline.errors import VisionError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.sources import open_source
from pipeline.types import Result

JOIN_S = 0.5  # how long the last result may take to go out
IMAGES = "image_raw"


class EngineNode(ManagedNode):
    """Runs the engine between the activations; the models are kept from one to the next.

    `cameras` are the names whose topics it has (the empty one: topics without a prefix); `source`
    is what to capture instead of subscribing, or empty; `classifier` a model, or empty.
    """

    def __init__(self, name: str, table: Sequence[Parameter] = (), **options: Any) -> None:
        super().__init__(name, (*DETECTION, *SUBSCRIPTION, *DIAGNOSTICS, *table), **options)
        self.parameters.on_change = self._change
        self._pace = Pace(self.parameters["max_rate"])
        self._diagnostics = Diagnostics(self, self.parameters)
        self._detector: Detector | None = None
        self._classifier: Classifier | None = None
        self._facts: dict[str, str] = {}
        self._outputs: dict[str, ResultPublisher] = {}
        self._activities: dict[str, Activity] = {}
        self._inputs: list[ImageSubscription] = []
        self._source: TopicSource | CaptureSource | None = None
        self._pipeline: Pipeline | None = None
        self._delivery: threading.Thread | None = None

    @property
    def cameras(self) -> Sequence[str]:
        """The names that stand before the topics."""
        return ("",)

    @property
    def source(self) -> str:
        """What to capture; empty to subscribe."""
        return ""

    def open_classifier(self) -> Classifier | None:
        """The classifier, for nodes that have one."""
        return None

    # --- the states -------------------------------------------------------------------------

    def configure(self) -> None:
        """Open and check the models, and create the output topics."""
        given = self.parameters
        self._detector = Detector(
            given["detector"],
            score_threshold=given["score_threshold"],
            nms_threshold=given["nms_threshold"],
            nms_kind=given["nms_kind"],
            max_detections=given["max_detections"],
            threads=given["threads"] or None,
        )
        self._classifier = self.open_classifier()
        self._facts = _facts(self._detector, self._classifier)
        for camera in self.cameras:
            self._outputs[camera] = ResultPublisher(self, f"{camera}/" if camera else "")
        self._announce()
        self.get_logger().info(", ".join(f"{name} {fact}" for name, fact in self._facts.items()))

    def cleanup(self) -> None:
        """Free the models, and take the topics away."""
        self._detector = self._classifier = None
        for output in self._outputs.values():
            output.close()
        self._outputs.clear()

    def activate(self) -> None:
        """Subscribe or open the source, and run the engine."""
        assert self._detector is not None  # noqa: S101 - configured, or this is not called
        self._activities = {camera: Activity(camera or IMAGES) for camera in self.cameras}
        self._source = self._open()
        self._source.paused = not self.enabled
        self._pipeline = Pipeline(
            self._source,
            self._detector,
            self._classifier,
            threads=self.parameters["threads"] or None,
        )
        self._pipeline.__enter__()
        self._delivery = threading.Thread(
            target=self._deliver, args=(self._pipeline,), name="deliver", daemon=True
        )
        self._delivery.start()
        if isinstance(self._source, TopicSource):
            self._inputs = [self._subscribe(self._source, camera) for camera in self.cameras]

    def deactivate(self) -> None:
        """Unsubscribe, or close the source, and end the engine's threads."""
        for subscription in self._inputs:
            subscription.close()
        self._inputs.clear()
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()
        elif self._source is not None:
            self._source.close()
        self._source = None
        if self._delivery is not None:
            self._delivery.join(JOIN_S)
            self._delivery = None
        for activity in self._activities.values():
            activity.settle()

    def pause(self, paused: bool) -> None:
        """Pass images over, or take them again."""
        if self._source is not None:
            self._source.paused = paused

    def housekeep(self) -> None:
        """Follow the publishers, warn where images are missing, and publish diagnostics."""
        if self.enabled:
            for subscription in self._inputs:
                subscription.check(self.parameters["image_timeout"])
        self._diagnostics.publish(
            list(self._activities.values()) or [Activity(IMAGES)],
            self._facts,
            state=self.state,
            problem=self.problem,
            enabled=self.enabled,
        )

    # --- images in --------------------------------------------------------------------------

    def _open(self) -> TopicSource | CaptureSource:
        if not self.source:
            return TopicSource(self._activities, self._pace, self._refuse)
        return CaptureSource(open_source(self.source), self._activity, self._pace)

    def _subscribe(self, source: TopicSource, camera: str) -> ImageSubscription:
        return ImageSubscription(
            self,
            f"{camera}/{IMAGES}" if camera else IMAGES,
            lambda message: source.put(camera, message),
            transport=self.parameters["image_transport"],
            reliability=self.parameters["reliability"],
        )

    def _refuse(self, camera: str, reason: str) -> None:
        where = f"{camera}/{IMAGES}" if camera else IMAGES
        self.get_logger().warning(
            f"{where}: passed over an image: {reason}", throttle_duration_sec=1.0
        )

    def _activity(self, camera: str) -> Activity:
        """Where the frames of a captured camera are counted."""
        return self._activities[camera if camera in self._activities else self.cameras[0]]

    # --- results out ------------------------------------------------------------------------

    def _deliver(self, pipeline: Pipeline) -> None:
        """Publish one result after the other; runs on a thread of its own."""
        problem = "the source has ended"
        try:
            for result in pipeline:
                self._publish(result)
        except VisionError as error:
            problem = str(error)
        except Exception as error:  # nobody else could tell why nothing comes any more
            problem = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        if self._pipeline is pipeline and self.executor is not None:
            self.executor.create_task(self.fail, problem)

    def _publish(self, result: Result) -> None:
        header = result.header
        if not isinstance(header, OriginHeader):
            raise TypeError(f"expected a header with its origin, but got {type(header).__name__}")
        camera = header.camera if header.camera in self._outputs else self.cameras[0]
        self._outputs[camera].publish(result, header.origin.header)
        now_ns = time.time_ns() if self.source else self.get_clock().now().nanoseconds
        activity = self._activities[camera]
        activity.record((now_ns - header.stamp_ns) / 1e9, result.stage_ns)
        activity.dropped = header.origin.count - activity.published

    def _announce(self) -> None:
        if self._detector is not None:
            for output in self._outputs.values():
                output.announce(self._detector.labels, self.parameters["score_threshold"])

    def _change(self, changed: Mapping[str, Value]) -> None:
        """Apply what was changed while running; from the next frame on it counts."""
        if self._detector is not None:
            for name in ("score_threshold", "nms_threshold"):
                if name in changed:
                    setattr(self._detector, name, changed[name])
        if "max_rate" in changed:
            self._pace.max_rate = changed["max_rate"]


def _facts(detector: Detector, classifier: Classifier | None) -> dict[str, str]:
    """What runs, to be told from anything else that may run."""
    facts = {}
    for name, part in (("detector", detector), ("classifier", classifier)):
        if part is not None:
            model = part.model
            digest = hashlib.sha256(model.path.read_bytes()).hexdigest()
            facts[name] = f"{model.path.name} ({len(part.labels)} labels)"
            facts[f"{name} sha256"] = digest
            facts[f"{name} provider"] = ", ".join(model.session.get_providers())
            facts[f"{name} threads"] = str(model.threads)
    return facts
