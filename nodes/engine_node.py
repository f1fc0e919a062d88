"""The nodes that run the engine: images in, results out, whatever the images come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nodes.images.frame_sources import CaptureSource, Pace, TopicSource
from nodes.images.image_subscription import ImageSubscription
from nodes.images.result_publisher import ResultPublisher
from nodes.lifecycle import ManagedNode
from nodes.messages.detection_messages import stamp_ns
from nodes.messages.diagnostics import Activity, Diagnostics
from nodes.messages.headers import origin_of
from nodes.messages.model_info import facts_of
from nodes.parameters.declaration import DETECTION, DIAGNOSTICS, SUBSCRIPTION, Parameter, Value
from nodes.source_runner import Playback
from pipeline.engine import Pipeline
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.types import Result

IMAGES = "image_raw"


class EngineNode(ManagedNode):
    """Runs the engine between the activations; the models are kept from one to the next.

    Subclasses may have a classifier, several cameras, and capture instead of subscribing.
    """

    def __init__(self, name: str, table: Sequence[Parameter] = (), **options: Any) -> None:
        super().__init__(name, (*DETECTION, *SUBSCRIPTION, *DIAGNOSTICS, *table), **options)
        self.parameters.on_change = self._change
        self.pace = Pace(self.parameters["max_rate"])
        self._diagnostics = Diagnostics(self, self.parameters)
        self._detector: Detector | None = None
        self._classifier: Classifier | None = None
        self._facts: dict[str, str] = {}
        self._outputs: dict[str, ResultPublisher] = {}
        self._activities: dict[str, Activity] = {}
        self._inputs: list[ImageSubscription] = []
        self._playback: Playback | None = None

    @property
    def cameras(self) -> Sequence[str]:
        """The names that stand before the topics."""
        return ("",)

    def open_classifier(self) -> Classifier | None:
        """The classifier, for nodes that have one."""
        return None

    @property
    def capture(self) -> Callable[[], CaptureSource] | None:
        """What opens the source, waiting for it; None for nodes that subscribe."""
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
        self._facts = facts_of(detector=self._detector, classifier=self._classifier)
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
        self._activities = {camera: Activity(camera or IMAGES) for camera in self.cameras}
        capture = self.capture
        self._playback = Playback(
            capture or self._subscribe_to_all(),
            self._engine,
            self._publish,
            self._over,
            self.get_logger(),
            paused=not self.enabled,
            retry=capture is not None and self.parameters["retry"],
            loop=capture is not None and self.parameters["loop"],
        )
        self._playback.start()

    def deactivate(self) -> None:
        """Unsubscribe, or close the source, and end the engine's threads."""
        for subscription in self._inputs:
            subscription.close()
        self._inputs.clear()
        playback, self._playback = self._playback, None
        if playback is not None and not playback.close():
            self.get_logger().warning("a thread did not end in time and is left behind")
        for activity in self._activities.values():
            activity.settle()

    def pause(self, paused: bool) -> None:
        """Pass images over, or take them again."""
        if self._playback is not None:
            self._playback.pause(paused)

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

    def _subscribe_to_all(self) -> Callable[[], TopicSource]:
        source = TopicSource(self._activities, self.pace, self._refuse)
        for camera in self.cameras:
            self._inputs.append(self._subscribe(source, camera))
        return lambda: source

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

    def activity(self, camera: str) -> Activity:
        """Where the frames of a camera are counted."""
        return self._activities[self.camera_of(camera)]

    def camera_of(self, camera: str) -> str:
        """Whose topics a frame goes to: the first camera's, with a warning, where it is none."""
        if camera in self.cameras:
            return camera
        if len(self.cameras) > 1:
            self.get_logger().warning(
                f"the source's camera '{camera}' is not one of cameras, {list(self.cameras)}: its "
                f"images go to {self.cameras[0]}/",
                throttle_duration_sec=30.0,
            )
        return self.cameras[0]

    # --- results out: on the playback's thread ----------------------------------------------

    def _engine(self, source: TopicSource | CaptureSource) -> Pipeline:
        if self._detector is None:
            raise RuntimeError("active, but not configured")
        threads = self.parameters["threads"] or None
        return Pipeline(source, self._detector, self._classifier, threads=threads)

    def _over(self, playback: Playback, problem: str) -> None:
        if self._playback is playback and self.executor is not None:
            self.executor.create_task(self.fail, problem)

    def _publish(self, result: Result) -> None:
        origin = origin_of(result)
        camera = self.camera_of(result.header.camera)
        self._outputs[camera].publish(result, origin.header)
        activity = self._activities[camera]
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(origin.header)
        activity.record(age_ns / 1e9, result.stage_ns)
        activity.dropped = origin.number - activity.published

    def _announce(self) -> None:
        if self._detector is not None:
            for output in self._outputs.values():
                output.announce(self._detector.labels, self._detector.score_threshold)

    def _change(self, changed: Mapping[str, Value]) -> None:
        """Apply what was changed while running; from the next frame on it counts."""
        if self._detector is not None:
            for name in ("score_threshold", "nms_threshold"):
                if name in changed:
                    setattr(self._detector, name, changed[name])
            if "score_threshold" in changed:
                self._announce()
        if "max_rate" in changed:
            self.pace.max_rate = changed["max_rate"]
