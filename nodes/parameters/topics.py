"""Publishers and subscriptions whose QoS the user may override.

Names and QoS come from the user: what ROS refuses of them is one line, not a fault of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.node import Node
from rclpy.qos import InvalidQoSProfileException, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from pipeline.errors import ConfigError

NEWEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
OVERRIDABLE = QoSOverridingOptions.with_default_policies()

# RuntimeError is what the middleware's own errors derive from, and what a bad override raises.
_REFUSALS = (
    RuntimeError,
    NameValidationException,
    ParameterException,
    InvalidQoSProfileException,
    InvalidQosOverridesError,
)


def open_publisher(
    node: Node,
    kind: type[Any],
    topic: str,
    qos: QoSProfile = NEWEST,
    overridable: QoSOverridingOptions | None = OVERRIDABLE,
) -> Any:
    """A publisher; raises `ConfigError` where the topic's name or its QoS cannot be used."""
    own = copy.copy(qos)  # rclpy writes what is overridden into it
    with _told(topic):
        return node.create_publisher(kind, topic, own, qos_overriding_options=overridable)


class Publishers:
    """Publishers that are there together: where one cannot be had, none of them stays."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: list[Any] = []

    def open(self, kind: type[Any], topic: str, **options: Any) -> Any:
        """One more; `options`, and what it raises, as of `open_publisher`."""
        try:
            publisher = open_publisher(self._node, kind, topic, **options)
        except ConfigError:
            self.close()
            raise
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Take all of them away; may be called twice."""
        while self._publishers:
            self._node.destroy_publisher(self._publishers.pop())


def open_subscription(
    node: Node,
    kind: type[Any],
    topic: str,
    take: Callable[[Any], None],
    qos: QoSProfile,
    overridable: QoSOverridingOptions = OVERRIDABLE,
) -> Any:
    """A subscription; raises `ConfigError` where the topic's name or its QoS cannot be used."""
    own = copy.copy(qos)
    with _told(topic):
        return node.create_subscription(kind, topic, take, own, qos_overriding_options=overridable)


@contextmanager
def _told(topic: str) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise ConfigError(
            f"topic {topic} cannot be had: {' '.join(str(error).split())}; see to its name and its "
            f"qos_overrides"
        ) from error
