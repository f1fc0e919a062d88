"""The base of the nodes that run a pipeline between activation and deactivation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nodes.images.frame_sources import (
    CaptureSource,
    NodeSource,
    RateLimit,
    TopicSource,
    open_capture,
)
from nodes.images.image_sender import ImageSender
from nodes.images.image_subscription import ImageSubscription
from nodes.images.publishers import ImagePublisher, ResultPublisher
from nodes.images.source_runner import SourceRunner
from nodes.lifecycle import ManagedNode
from nodes.messages.diagnostics import Activity, model_info
from nodes.messages.headers import origin_of, stamp_ns
from nodes.parameters import Parameter, Value
from nodes.throttle import WARN_AGAIN_S, Throttle
from pipeline.engine import Pipeline
from pipeline.errors import ConfigError, one_line
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.inference.session import Runtime
from pipeline.settings import NO_MODEL
from pipeline.text.display import shown_source
from pipeline.types import Result

IMAGES = "image_raw"


class EngineNode(ManagedNode):
    """Runs a pipeline whose parts follow from the parameters in `table`.

    - `source`: a value captures images and publishes them; otherwise the node subscribes
    - `detector`: the node detects objects and publishes detections, unless the value is `none`
    - `classifier`: the node also classifies them, unless the value is `none`
    - `cameras`: the names before the topics, one for each camera

    The models stay open from one activation to the next.
    """

    def __init__(self, name: str, table: Sequence[Parameter], **options: Any) -> None:
        super().__init__(name, table, **options)
        self.parameters.on_change = self._on_change
        self.cameras: Sequence[str] = self.parameters.get("cameras", ("",))
        self._throttle = Throttle()
        self._limit = RateLimit(self.parameters["max_rate"])
        self._detector: Detector | None = None
        self._classifier: Classifier | None = None
        self._images: dict[str, ImagePublisher] = {}
        self._results: dict[str, ResultPublisher] = {}
        self._senders: dict[str, ImageSender] = {}
        self._activities: dict[str, Activity] = {}
        self._inputs: list[ImageSubscription] = []
        self._runner: SourceRunner | None = None

    # --- states -----------------------------------------------------------------------------

    def configure(self) -> None:
        """Open and check the models, and create the publishers."""
        self._open_models(self.parameters.as_dict())
        for camera in self.cameras:
            prefix = f"{camera}/" if camera else ""
            if self._detector is not None:
                self._results[camera] = ResultPublisher(self, prefix)
                self._senders[camera] = ImageSender(self.get_logger())
            if self._captures:
                self._images[camera] = ImagePublisher(self, self.parameters, prefix)
        self._announce_labels()

    def cleanup(self) -> None:
        """Release the models and remove the publishers."""
        self._detector = self._classifier = None
        for publishers in (self._senders, self._results, self._images):
            for publisher in publishers.values():
                publisher.close()
            publishers.clear()

    def activate(self) -> None:
        """Subscribe or open the source, and run the pipeline."""
        self._activities = {camera: Activity(camera or IMAGES) for camera in self.cameras}
        captures = self._captures
        self._runner = SourceRunner(
            self._open_capture if captures else self._subscribe(),
            self._make_pipeline,
            self._publish,
            self._on_end,
            self.get_logger(),
            paused=not self.enabled,
            retry=captures and self.parameters["retry"],
            loop=captures and self.parameters["loop"],
        )
        self._runner.start()
        self.get_logger().info(f"active: {self._described_topics()}")

    def _described_topics(self) -> str:
        """What the node reads and publishes, with the topics after all remappings."""
        if self._captures:
            origin = f"captures {shown_source(self.parameters['source'])}"  # without a password
        else:
            topics = (f"{one.topic} ({one.reliability.name.lower()})" for one in self._inputs)
            origin = f"subscribes to {', '.join(topics)}"
        published = [publisher.topic for publisher in self._images.values()]
        published += [publisher.topic for publisher in self._results.values()]
        return f"{origin}; publishes {', '.join(published)}"

    def deactivate(self) -> None:
        """Unsubscribe or close the source, and end the pipeline's threads."""
        for subscription in self._inputs:
            subscription.close()
        self._inputs.clear()
        runner, self._runner = self._runner, None
        if runner is not None and not runner.close():
            self.get_logger().warning("a thread did not end in time and is left behind")
        for activity in self._activities.values():
            activity.settle()

    def pause(self, paused: bool) -> None:
        """Drop images, or wait before the next one of a file."""
        if self._runner is not None:
            self._runner.pause(paused)

    def housekeep(self) -> None:
        """Follow the publishers' reliability and warn if no images come."""
        for camera, sender in self._senders.items():
            if camera in self._activities:
                self._activities[camera].images_dropped = sender.dropped
        if self.enabled:
            for subscription in self._inputs:
                subscription.check(self.parameters["image_timeout"])

    def activities(self) -> Sequence[Activity]:
        """The counts of each camera, for diagnostics."""
        return list(self._activities.values()) or [Activity(IMAGES)]

    # --- models -----------------------------------------------------------------------------

    def _open_models(self, given: Mapping[str, Value]) -> None:
        detector, classifier = None, None
        if given.get("detector", NO_MODEL) == NO_MODEL:
            if not self._captures:
                raise ConfigError("parameter detector is none; expected a model, or a source")
        else:
            runtime = Runtime(threads=given["threads"] or None)
            detector = Detector(
                given["detector"],
                score_threshold=given["score_threshold"],
                nms_threshold=given["nms_threshold"],
                nms_kind=given["nms_kind"],
                max_detections=given["max_detections"],
                runtime=runtime,
            )
            if given.get("classifier", NO_MODEL) != NO_MODEL:
                classifier = Classifier(given["classifier"], top=given["top"], runtime=runtime)
        self._detector, self._classifier = detector, classifier
        self.info = {**self.info, **model_info(detector=detector, classifier=classifier)}
        if detector is not None:
            self.get_logger().info(
                ", ".join(f"{name} {value}" for name, value in self.info.items())
            )

    def _reopen_models(self, changed: Mapping[str, Value]) -> None:
        """Open other models between configuration and activation; the publishers stay."""
        detector = changed.get("detector", self.parameters["detector"])
        if (detector == NO_MODEL) != (self._detector is None):
            raise ConfigError("detector none has other topics than a model: clean up first")
        self._open_models({**self.parameters.as_dict(), **changed})
        self._announce_labels()

    def _announce_labels(self) -> None:
        if self._detector is not None:
            for publisher in self._results.values():
                publisher.announce(self._detector.labels, self._detector.score_threshold)

    def _on_change(self, changed: Mapping[str, Value]) -> None:
        """Apply changed parameters; they hold from the next frame on.

        Raises `ConfigError` for another model while active, `ModelError` if it cannot be used.
        """
        if self.may_open_models(changed):
            self._reopen_models(changed)
        if self._detector is not None:
            for name in ("score_threshold", "nms_threshold"):
                if name in changed:
                    setattr(self._detector, name, changed[name])
            if "score_threshold" in changed:
                self._announce_labels()
        if "max_rate" in changed:
            self._limit.max_rate = changed["max_rate"]

    # --- images in --------------------------------------------------------------------------

    @property
    def _captures(self) -> bool:
        return bool(self.parameters.get("source"))

    def _open_capture(self) -> CaptureSource:
        return open_capture(self.parameters, self.get_clock(), self._activity, self._limit)

    def _subscribe(self) -> Callable[[], TopicSource]:
        source = TopicSource(self._activities, self._limit, self._warn_of_bad_image)
        for camera in self.cameras:
            self._inputs.append(self._subscription(source, camera))
        return lambda: source

    def _subscription(self, source: TopicSource, camera: str) -> ImageSubscription:
        return ImageSubscription(
            self,
            _topic_of(camera),
            lambda message: source.put(camera, message),
            transport=self.parameters["image_transport"],
            reliability=self.parameters["reliability"],
        )

    def _warn_of_bad_image(self, camera: str, reason: str) -> None:
        topic = _topic_of(camera)
        if self._throttle.admits(topic, reason):
            self.get_logger().warning(f"{topic}: unreadable image: {one_line(reason)}")

    def _activity(self, camera: str) -> Activity:
        return self._activities[self._known_camera(camera)]

    def _known_camera(self, camera: str) -> str:
        """The camera whose topics a frame uses: an unknown camera uses those of the first."""
        if camera in self.cameras:
            return camera
        if len(self.cameras) > 1:
            self.get_logger().warning(
                f"the source's camera '{camera}' is not one of cameras, {list(self.cameras)}: its "
                f"images go to {self.cameras[0]}/",
                throttle_duration_sec=WARN_AGAIN_S,
            )
        return self.cameras[0]

    # --- results out: on the runner's thread ------------------------------------------------

    def _make_pipeline(self, source: NodeSource) -> Pipeline:
        threads = self.parameters.get("threads") or None
        return Pipeline(source, self._detector, self._classifier, threads=threads)

    def _publish(self, result: Result) -> None:
        """Publish a result, and then its images: from another thread, if there are both."""
        header, number = origin_of(result)
        camera = self._known_camera(result.header.camera)
        results, images = self._results.get(camera), self._images.get(camera)
        if results is None:
            _publish_images(images, None, result, header)
        else:
            results.publish(result, header)
            if results.draws() or (images is not None and images.has_subscribers()):
                job = partial(_publish_images, images, results, result, header)
                self._senders[camera].send(job)
        activity = self._activities[camera]
        if not activity.published:
            self.get_logger().info(
                f"first image of {camera or header.frame_id or IMAGES}: "
                f"{result.header.width}x{result.header.height}"
            )
        activity.record(self.get_clock().now().nanoseconds, stamp_ns(header), result.stage_ns)
        activity.dropped = number - activity.published

    def _on_end(self, runner: SourceRunner, problem: str) -> None:
        if self._runner is runner and self.executor is not None:
            self.executor.create_task(self.fail, problem)


def _publish_images(
    images: ImagePublisher | None, results: ResultPublisher | None, result: Result, header: Any
) -> None:
    if images is not None and result.image is not None:
        images.publish(result.image, header)
    if results is not None:
        results.publish_drawn(result, header)


def _topic_of(camera: str) -> str:
    return f"{camera}/{IMAGES}" if camera else IMAGES
