"""Images and detections in, the same detections with finer names out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from vision_msgs.msg import Detection2DArray

from nodes.images.image_matcher import Join, Pair
from nodes.images.image_messages import image_from
from nodes.images.image_subscription import ImageSubscription
from nodes.lifecycle import ManagedNode
from nodes.messages.detection_messages import add_classifications, boxes_from, stamp_ns
from nodes.messages.diagnostics import Activity, Diagnostics
from nodes.messages.model_info import facts_of
from nodes.parameters.declaration import (
    CLASSIFICATION,
    DIAGNOSTICS,
    NO_CLASSIFIER,
    SUBSCRIPTION,
    THREADS,
    Parameter,
    Value,
)
from nodes.parameters.topics import open_publisher, open_subscription
from nodes.process import run
from pipeline.errors import ConfigError, FrameError
from pipeline.inference.classifier import Classifier
from pipeline.runtime.mailbox import Closed, Mailbox, NewestOfEach
from pipeline.runtime.stage import Stage

IMAGES, DETECTIONS, CLASSIFIED = "image_raw", "detections", "classified_detections"
JOIN_S = 0.8  # how long the worker may take to end

TABLE = (
    *CLASSIFICATION,
    THREADS,
    *SUBSCRIPTION,
    Parameter(
        "sync_tolerance",
        0.0,
        "seconds by which the stamps of detections and their image may differ; 0: not at all",
        0.0,
        10.0,
        changeable=True,
    ),
    *DIAGNOSTICS,
)
# Hears reliable and best-effort publishers alike; arrays are small, so few get lost.
_HEARS_ALL = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)


class Topic(NamedTuple):
    """Where the worker puts its results, and what it calls at its end."""

    put: Callable[[Any], None]
    close: Callable[[BaseException | None], None]


class ClassifierNode(ManagedNode):
    """Joins `image_raw` and `detections` by stamp and `frame_id` and adds finer names to each.

    The array goes out on `classified_detections` with everything that it came with. While the
    classifier is busy the newest pair of each `frame_id` waits, and older ones are dropped.
    """

    def __init__(self) -> None:
        super().__init__("classifier_node", TABLE)
        self.parameters.on_change = self._change
        self._diagnostics = Diagnostics(self, self.parameters)
        self._activity = Activity(CLASSIFIED)
        self._classifier: Classifier | None = None
        self._facts: dict[str, str] = {}
        self._output: Any = None
        self._join = Join()
        self._pairs: Mailbox[Pair] | None = None
        self._worker: Stage[Pair, Any] | None = None
        self._images: ImageSubscription | None = None
        self._detections: Any = None

    # --- the states -------------------------------------------------------------------------

    def configure(self) -> None:
        """Open and check the model, and create the topics."""
        given = self.parameters
        if given["classifier"] == NO_CLASSIFIER:
            raise ConfigError("parameter classifier is none; expected a model, or no such node")
        self._classifier = Classifier(
            given["classifier"], top=given["top"], threads=given["threads"] or None
        )
        self._facts = facts_of(classifier=self._classifier)
        self._output = open_publisher(self, Detection2DArray, CLASSIFIED)
        self.get_logger().info(", ".join(f"{name} {fact}" for name, fact in self._facts.items()))

    def cleanup(self) -> None:
        """Free the model, and take the topics away."""
        self._classifier = None
        if self._output is not None:
            self.destroy_publisher(self._output)
            self._output = None

    def activate(self) -> None:
        """Start the worker and subscribe."""
        assert self._classifier is not None  # noqa: S101 - configured, or this is not called
        self._classifier.warm_up()
        self._activity = Activity(CLASSIFIED)
        self._join = Join(self.parameters["sync_tolerance"])
        self._pairs = pairs = NewestOfEach[Pair](lambda pair: pair.detections.header.frame_id)
        self._worker = worker = Stage(
            "classify",
            pairs,
            self._classified,
            Topic(self._publish, lambda failure: self._finished(pairs, failure)),
            lambda *_: None,  # the worker has failed or was stopped: nothing to count
        )
        worker.start()
        self._images = ImageSubscription(
            self,
            IMAGES,
            self._take_image,
            transport=self.parameters["image_transport"],
            reliability=self.parameters["reliability"],
        )
        self._detections = open_subscription(
            self, Detection2DArray, DETECTIONS, self._take_detections, _HEARS_ALL
        )

    def deactivate(self) -> None:
        """Unsubscribe, and end the worker."""
        if self._images is not None:
            self._images.close()
            self._images = None
        if self._detections is not None:
            self.destroy_subscription(self._detections)
            self._detections = None
        pairs, self._pairs = self._pairs, None
        if pairs is not None:
            pairs.cancel()
        worker, self._worker = self._worker, None
        if worker is not None and self._classifier is not None:
            self._classifier.cancel()
            if worker.join(time.monotonic() + JOIN_S):
                self.get_logger().warning("the classifier did not end in time and is left behind")
        self._activity.settle()

    def pause(self, paused: bool) -> None:
        """Silence while it was paused is nobody's fault."""
        self._activity.last_s = time.monotonic()

    def housekeep(self) -> None:
        """Follow the publishers, warn where nothing can be joined, and publish diagnostics."""
        if self.enabled and self._images is not None:
            timeout_s = self.parameters["image_timeout"]
            self._images.check(timeout_s)
            self._check_join(timeout_s)
        facts = {**self._facts, "without their image": str(self._join.unmatched)}
        self._diagnostics.publish(
            [self._activity],
            facts,
            state=self.state,
            problem=self.problem,
            enabled=self.enabled,
        )

    # --- messages in ------------------------------------------------------------------------

    def _take_image(self, message: Any) -> None:
        if self.enabled:
            self._hand_over(self._join.add_image(message))

    def _take_detections(self, message: Any) -> None:
        if self.enabled:
            self._activity.received += 1
            self._hand_over(self._join.add_detections(message))

    def _hand_over(self, pair: Pair | None) -> None:
        if pair is None or self._pairs is None:
            return
        self._activity.last_s = time.monotonic()
        try:
            displaced = self._pairs.put(pair)
        except Closed:
            return  # the worker has ended, and the node is about to hear of it
        if displaced is not None:
            self._activity.dropped += 1

    def _check_join(self, timeout_s: float) -> None:
        mismatch = self._join.mismatch()
        if mismatch and time.monotonic() - self._activity.last_s >= timeout_s:
            self.get_logger().warning(
                f"detections have no image of the same stamp and frame_id: {mismatch}; remap "
                f"{IMAGES} to what the detector sees, or raise sync_tolerance",
                throttle_duration_sec=30.0,
            )

    # --- the worker's thread ----------------------------------------------------------------

    def _classified(self, pair: Pair) -> tuple[Any, dict[str, int]] | None:
        """The detections with finer names, and the time it took; None for a bad image."""
        detections, message = pair
        if message is None:
            return detections, {}
        assert self._classifier is not None  # noqa: S101 - freed only once this thread has ended
        started_ns = time.monotonic_ns()
        try:
            image = image_from(message)
        except FrameError as error:
            self._activity.refused += 1
            self.get_logger().warning(
                f"{IMAGES}: passed over an image: {error}", throttle_duration_sec=1.0
            )
            return None
        height, width = image.shape[:2]
        found = self._classifier(image, boxes_from(detections, width, height))
        add_classifications(detections.detections, found)
        return detections, {"classify": time.monotonic_ns() - started_ns}

    def _publish(self, outcome: tuple[Any, dict[str, int]] | None) -> None:
        if outcome is None:
            return
        detections, stage_ns = outcome
        self._output.publish(detections)
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(detections.header)
        self._activity.record(age_ns / 1e9, stage_ns)

    def _finished(self, pairs: Mailbox[Pair], failure: BaseException | None) -> None:
        if failure is not None and self._pairs is pairs and self.executor is not None:
            self.executor.create_task(self.fail, str(failure))

    def _change(self, changed: Mapping[str, Value]) -> None:
        if "sync_tolerance" in changed:
            self._join.tolerance_s = changed["sync_tolerance"]


def main() -> None:
    """Run the node until it is told to end."""
    run(ClassifierNode)


if __name__ == "__main__":
    main()
