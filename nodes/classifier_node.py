"""The node that subscribes to images and detections and adds classes to the detections."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from vision_msgs.msg import Detection2DArray

from nodes.images.image_matcher import ImageMatcher, Match
from nodes.images.image_messages import image_from
from nodes.images.image_subscription import ImageSubscription
from nodes.lifecycle import ManagedNode
from nodes.messages.detection_messages import add_classifications, boxes_from
from nodes.messages.diagnostics import Activity, model_info
from nodes.messages.headers import stamp_ns
from nodes.parameters import SUBSCRIPTION, SYNC_TOLERANCE, Value
from nodes.process import run
from nodes.throttle import WARN_AGAIN_S, Throttle
from nodes.topics import open_publisher, open_subscription
from pipeline.errors import ConfigError, FrameError, one_line
from pipeline.inference.classifier import Classifier
from pipeline.inference.session import Runtime
from pipeline.runtime.mailbox import Closed, NewestOfEach
from pipeline.settings import NO_MODEL
from pipeline.text.display import printable_lines

IMAGES, DETECTIONS, CLASSIFIED = "image_raw", "detections", "classified_detections"
JOIN_S = 0.8  # timeout for the worker to end

# Fits reliable and best-effort publishers; arrays are small, so few get lost.
_ANY_PUBLISHER = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)


class ClassifierNode(ManagedNode):
    """Matches `image_raw` and `detections` by stamp and `frame_id` and adds classes to each object.

    The array is published on `classified_detections`, otherwise unchanged. While the classifier is
    busy, the newest match of each `frame_id` waits and older ones are dropped.
    """

    def __init__(self) -> None:
        super().__init__("classifier_node", (*SUBSCRIPTION, SYNC_TOLERANCE))
        self.parameters.on_change = self._on_change
        self._activity = Activity(CLASSIFIED)
        self._classifier: Classifier | None = None
        self._publisher: Any = None
        self._matcher = ImageMatcher()
        self._throttle = Throttle()
        self._image_s = 0.0
        self._matches: NewestOfEach[Match] | None = None
        self._worker: threading.Thread | None = None
        self._images: ImageSubscription | None = None
        self._detections: Any = None

    # --- states -----------------------------------------------------------------------------

    def configure(self) -> None:
        """Open and check the model, and create the publisher."""
        self._open_model(self.parameters["classifier"])
        self._publisher = open_publisher(self, Detection2DArray, CLASSIFIED)

    def _open_model(self, model: str) -> None:
        if model == NO_MODEL:
            raise ConfigError("parameter classifier is none; expected a model, or no such node")
        runtime = Runtime(threads=self.parameters["threads"] or None)
        self._classifier = Classifier(model, top=self.parameters["top"], runtime=runtime)
        self.info = model_info(classifier=self._classifier)
        self.get_logger().info(", ".join(f"{name} {value}" for name, value in self.info.items()))

    def cleanup(self) -> None:
        """Release the model and remove the publisher."""
        self._classifier = None
        if self._publisher is not None:
            self.destroy_publisher(self._publisher)
            self._publisher = None

    def activate(self) -> None:
        """Start the worker and subscribe."""
        classifier = self._classifier
        if classifier is None:
            raise RuntimeError("active, but not configured")
        classifier.warm_up()
        self._activity = Activity(CLASSIFIED)
        self._matcher = ImageMatcher(self.parameters["sync_tolerance"])
        self._matches = NewestOfEach[Match](lambda match: match.detections.header.frame_id)
        self._worker = threading.Thread(
            target=self._work, args=(classifier, self._matches), name="classify", daemon=True
        )
        self._worker.start()
        self._images = ImageSubscription(
            self,
            IMAGES,
            self._on_image,
            transport=self.parameters["image_transport"],
            reliability=self.parameters["reliability"],
        )
        self._detections = open_subscription(
            self, Detection2DArray, DETECTIONS, self._on_detections, _ANY_PUBLISHER
        )

    def deactivate(self) -> None:
        """Unsubscribe and end the worker."""
        if self._images is not None:
            self._images.close()
            self._images = None
        if self._detections is not None:
            self.destroy_subscription(self._detections)
            self._detections = None
        matches, self._matches = self._matches, None
        if matches is not None:
            matches.cancel()
        worker, self._worker = self._worker, None
        if worker is not None and self._classifier is not None:
            self._classifier.cancel()
            worker.join(JOIN_S)
            if worker.is_alive():
                self.get_logger().warning("the classifier did not end in time and is left behind")
        self._activity.settle()

    def pause(self, paused: bool) -> None:
        """Do not count the pause as time without images."""
        self._activity.last_s = time.monotonic()

    def housekeep(self) -> None:
        """Follow the publishers' reliability and warn if nothing matches."""
        if self.enabled and self._images is not None:
            timeout_s = self.parameters["image_timeout"]
            self._images.check(timeout_s)
            self._warn_of_mismatch(timeout_s)
            has_images = time.monotonic() - self._image_s < timeout_s
            self._activity.awaited = "detections, though images come," if has_images else "image"
        self.info["without their image"] = str(self._matcher.unmatched)

    def activities(self) -> Sequence[Activity]:
        """The counts for diagnostics."""
        return [self._activity]

    # --- messages in ------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        if self.enabled:
            self._image_s = time.monotonic()
            self._put(self._matcher.add_image(message))

    def _on_detections(self, message: Any) -> None:
        if self.enabled:
            self._activity.received += 1
            self._put(self._matcher.add_detections(message))

    def _put(self, match: Match | None) -> None:
        if match is None or self._matches is None:
            return
        self._activity.last_s = time.monotonic()
        try:
            displaced = self._matches.put(match)
        except Closed:
            return  # the worker has failed and the node is about to become inactive
        if displaced is not None:
            self._activity.dropped += 1

    def _warn_of_mismatch(self, timeout_s: float) -> None:
        mismatch = self._matcher.mismatch()
        if mismatch and time.monotonic() - self._activity.last_s >= timeout_s:
            self.get_logger().warning(
                f"detections have no image of the same stamp and frame_id: {mismatch}; remap "
                f"{IMAGES} to the topic that the detector subscribes to, or raise sync_tolerance",
                throttle_duration_sec=WARN_AGAIN_S,
            )

    # --- the worker's thread ----------------------------------------------------------------

    def _work(self, classifier: Classifier, matches: NewestOfEach[Match]) -> None:
        try:
            while True:
                self._classify(classifier, matches.get())
        except Closed:
            return
        except Exception as error:  # reported to the node, whatever it is
            matches.cancel()
            if self._matches is matches and self.executor is not None:
                self.get_logger().error(printable_lines(traceback.format_exc()))
                problem = one_line(f"{type(error).__name__}: {error}")
                self.executor.create_task(self.fail, problem)

    def _classify(self, classifier: Classifier, match: Match) -> None:
        """Publish the detections with their classes, unless the image is unreadable."""
        detections, message = match
        stage_ns = {}
        if message is not None:
            started_ns = time.monotonic_ns()
            try:
                image = image_from(message)
            except FrameError as error:
                self._activity.refuse(str(error))
                if self._throttle.admits(IMAGES, str(error)):
                    self.get_logger().warning(f"{IMAGES}: unreadable image: {one_line(error)}")
                return
            height, width = image.shape[:2]
            classes = classifier(image, boxes_from(detections, width, height))
            add_classifications(detections.detections, classes)
            stage_ns["classify"] = time.monotonic_ns() - started_ns
        self._publisher.publish(detections)
        now_ns = self.get_clock().now().nanoseconds
        self._activity.record(now_ns, stamp_ns(detections.header), stage_ns)

    def _on_change(self, changed: Mapping[str, Value]) -> None:
        if self.may_open_models(changed):
            self._open_model(changed["classifier"])
        if "sync_tolerance" in changed:
            self._matcher.tolerance_s = changed["sync_tolerance"]


def main() -> None:
    """Run the node until a signal ends it."""
    run(ClassifierNode)


if __name__ == "__main__":
    main()
