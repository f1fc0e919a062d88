"""A subscription to images that follows the publisher's reliability and warns of silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from nodes.middleware import PROFILES, is_fast_dds, profiles_variable
from nodes.throttle import WARN_AGAIN_S
from nodes.topics import open_subscription

COMPRESSED = "/compressed"
RELIABLE, BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
MAX_NAMED = 3  # publishers and other topics in one warning
_TYPES = {
    "raw": (Image, "sensor_msgs/msg/Image"),
    "compressed": (CompressedImage, "sensor_msgs/msg/CompressedImage"),
}
# Reliability is a parameter of the node, because `auto` is not a value of the middleware.
_OVERRIDABLE = QoSOverridingOptions((QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY))


class ImageSubscription:
    """Subscribes to `topic` (or its `/compressed`) and passes each message to `on_message`.

    `transport` is raw or compressed; `reliability` auto, reliable or best_effort. Until publishers
    are known, `auto` is best effort, which fits every publisher. `check`, called about once a
    second, changes to reliable if all publishers are. Use it on the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        on_message: Callable[[Any], None],
        *,
        transport: str = "raw",
        reliability: str = "auto",
    ) -> None:
        self._node = node
        self._kind, self._type_name = _TYPES[transport]
        resolved = node.resolve_topic_name(topic)
        self._topic = resolved + COMPRESSED if transport == "compressed" else resolved
        self._on_message = on_message
        self._is_auto = reliability == "auto"
        self.reliability = RELIABLE if reliability == "reliable" else BEST_EFFORT
        self._last_s = time.monotonic()
        self._warned: tuple[str, float] | None = None
        self._subscription = self._subscribe()

    def check(self, timeout_s: float) -> None:
        """Follow the publishers' reliability; warn if no image has come for `timeout_s`."""
        publishers = self._publishers()
        if self._is_auto and publishers:
            offered = {p.qos_profile.reliability for p in publishers}
            wanted = RELIABLE if offered == {RELIABLE} else BEST_EFFORT
            if wanted != self.reliability:
                self.reliability = wanted
                self._node.destroy_subscription(self._subscription)
                self._subscription = self._subscribe()
        now_s = time.monotonic()
        silent_s = now_s - self._last_s
        if silent_s < timeout_s:
            self._warned = None
            return
        reason = self._reason(publishers)
        before, before_s = self._warned or ("", 0.0)
        if reason != before or now_s - before_s >= WARN_AGAIN_S:
            self._warned = (reason, now_s)
            self._node.get_logger().warning(
                f"no image on {self.topic} for {silent_s:.0f} s: {reason}"
            )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    @property
    def topic(self) -> str:
        """The full name of the topic, after all remappings."""
        return str(self._subscription.topic_name)

    def _subscribe(self) -> Any:
        profile = QoSProfile(
            history=QoSHistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=self.reliability,
            durability=QoSDurabilityPolicy.VOLATILE,
        )
        return open_subscription(
            self._node, self._kind, self._topic, self._on_image, profile, _OVERRIDABLE
        )

    def _on_image(self, message: Any) -> None:
        self._last_s = time.monotonic()
        self._on_message(message)

    def _publishers(self) -> Sequence[Any]:
        publishers: Sequence[Any] = self._node.get_publishers_info_by_topic(self.topic)
        return publishers

    # --- why no images come -----------------------------------------------------------------

    def _reason(self, publishers: Sequence[Any]) -> str:
        if not publishers:
            return f"it has no publisher; {self._others()}"
        return "; ".join(self._mismatch(p) for p in publishers[:MAX_NAMED])

    def _mismatch(self, publisher: Any) -> str:
        namespace = publisher.node_namespace.rstrip("/")
        name = f"{namespace}/{publisher.node_name}"
        offered = publisher.qos_profile
        described = f"publisher {name} ({offered.reliability.name.lower()})"
        if publisher.topic_type != self._type_name:
            return f"{described} sends {publisher.topic_type}, expected {self._type_name}"
        wanted = self._subscription.qos_profile  # with the user's overrides
        verdict, why = qos_check_compatible(offered, wanted)
        if verdict == QoSCompatibility.ERROR:
            is_strict = wanted.reliability == RELIABLE and offered.reliability != RELIABLE
            remedy = "set the parameter reliability to auto" if is_strict else "see qos_overrides"
            return (
                f"{described} is not compatible with this subscription "
                f"({wanted.reliability.name.lower()}): {why.strip().rstrip(';')}; {remedy}"
            )
        if offered.reliability == BEST_EFFORT and is_fast_dds():
            return (
                f"{described} sends nothing, or its images are larger than the shared memory of "
                f"its Fast DDS (512 KB), which then loses them: start it with "
                f"{profiles_variable()}={PROFILES}, or let it publish reliably or compressed"
            )
        return f"{described} is compatible but sends nothing, or nothing arrives"

    def _others(self) -> str:
        """The topics on which other nodes publish images."""
        compressed = self._topic + COMPRESSED
        if self._kind is Image and self._is_published_by_others(compressed):
            return f"{compressed} has one: set the parameter image_transport to compressed"
        topics = [
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if self._type_name in kinds and self._is_published_by_others(name)
        ]
        if not topics:
            return f"no node publishes {self._type_name}"
        return f"{self._type_name} is published on {', '.join(topics[:MAX_NAMED])}: remap the topic"

    def _is_published_by_others(self, topic: str) -> bool:
        own = (self._node.get_name(), self._node.get_namespace())
        publishers = self._node.get_publishers_info_by_topic(topic)
        return any((p.node_name, p.node_namespace) != own for p in publishers)
