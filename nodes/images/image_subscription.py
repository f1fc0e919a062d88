"""A subscription to images that takes the publisher's reliability and says why nothing comes."""

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

from nodes.parameters.topics import open_subscription

COMPRESSED = "/compressed"
RELIABLE, BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
WARN_AGAIN_S = 30.0
SHOWN = 3  # publishers and other topics in one warning
_TYPES = {
    "raw": (Image, "sensor_msgs/msg/Image"),
    "compressed": (CompressedImage, "sensor_msgs/msg/CompressedImage"),
}
# Reliability is a parameter of ours, because `auto` is none of the middleware's values.
_OVERRIDABLE = QoSOverridingOptions((QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY))


class ImageSubscription:
    """Hears `topic` (or its `/compressed`) and gives each message to `on_message`.

    `transport` is raw or compressed; `reliability` auto, reliable or best_effort. Until publishers
    are known, `auto` takes best effort, which hears both kinds; `check`, called about once a
    second, changes to reliable where all publishers are. Used on the executor's thread.

    `received` counts the messages; `last_s` is the `time.monotonic` of the last one, or of the
    beginning.
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
        self._asked = resolved + COMPRESSED if transport == "compressed" else resolved
        self._on_message = on_message
        self._is_auto = reliability == "auto"
        self.reliability = RELIABLE if reliability == "reliable" else BEST_EFFORT
        self.received = 0
        self.last_s = time.monotonic()
        self._said: tuple[str, float] | None = None
        self._subscription = self._subscribe()

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the beginning."""
        return time.monotonic() - self.last_s

    def check(self, timeout_s: float) -> None:
        """Follow the publishers' reliability; warn where no image came for `timeout_s`."""
        publishers = self._publishers()
        if self._is_auto and publishers:
            offered = {p.qos_profile.reliability for p in publishers}
            wanted = RELIABLE if offered == {RELIABLE} else BEST_EFFORT
            if wanted != self.reliability:
                self.reliability = wanted
                self._node.destroy_subscription(self._subscription)
                self._subscription = self._subscribe()
        if self.silent_s < timeout_s:
            self._said = None
            return
        reason, now_s = self._reason(publishers), time.monotonic()
        # Again where it is another reason: a publisher that is there now, but does not fit.
        if self._said is None or self._said[0] != reason or now_s - self._said[1] >= WARN_AGAIN_S:
            self._said = (reason, now_s)
            self._node.get_logger().warning(
                f"no image on {self.topic} for {self.silent_s:.0f} s: {reason}"
            )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    @property
    def topic(self) -> str:
        """Its full name, after all remappings."""
        return str(self._subscription.topic_name)

    def _subscribe(self) -> Any:
        profile = _profile(self.reliability)
        return open_subscription(
            self._node, self._kind, self._asked, self._take, profile, _OVERRIDABLE
        )

    def _take(self, message: Any) -> None:
        self.received += 1
        self.last_s = time.monotonic()
        self._on_message(message)

    def _publishers(self) -> Sequence[Any]:
        publishers: Sequence[Any] = self._node.get_publishers_info_by_topic(self.topic)
        return publishers

    # --- why nothing comes ------------------------------------------------------------------

    def _reason(self, publishers: Sequence[Any]) -> str:
        if not publishers:
            return f"it has no publisher; {self._others()}"
        return "; ".join(self._trouble(p) for p in publishers[:SHOWN])

    def _trouble(self, publisher: Any) -> str:
        namespace = publisher.node_namespace.rstrip("/")
        name = f"{namespace}/{publisher.node_name}"
        offered = publisher.qos_profile
        described = f"publisher {name} ({offered.reliability.name.lower()})"
        if publisher.topic_type != self._type_name:
            return f"{described} sends {publisher.topic_type}, expected {self._type_name}"
        wanted = self._subscription.qos_profile  # with what the user has overridden
        verdict, why = qos_check_compatible(offered, wanted)
        if verdict == QoSCompatibility.ERROR:
            is_strict = wanted.reliability == RELIABLE and offered.reliability != RELIABLE
            remedy = "set the parameter reliability to auto" if is_strict else "see qos_overrides"
            return (
                f"{described} does not fit this subscription "
                f"({wanted.reliability.name.lower()}): {why.strip().rstrip(';')}; {remedy}"
            )
        return f"{described} fits but sends nothing, or nothing arrives"

    def _others(self) -> str:
        """Where images are to be had instead."""
        topics = [
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if self._type_name in kinds and self._is_published_by_others(name)
        ]
        if not topics:
            return f"nobody publishes {self._type_name}"
        return f"{self._type_name} is published on {', '.join(topics[:SHOWN])}: remap the topic"

    def _is_published_by_others(self, topic: str) -> bool:
        own = (self._node.get_name(), self._node.get_namespace())
        publishers = self._node.get_publishers_info_by_topic(topic)
        return any((p.node_name, p.node_namespace) != own for p in publishers)


def _profile(reliability: QoSReliabilityPolicy) -> QoSProfile:
    """Only the newest image counts, whatever happens to the others."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=reliability,
        durability=QoSDurabilityPolicy.VOLATILE,
    )
