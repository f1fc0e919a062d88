"""Topics of results, and publishers and subscriptions whose QoS the user may override.

Names and QoS come from the user: what ROS rejects of them is a `ConfigError`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.node import Node
from rclpy.qos import InvalidQoSProfileException, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from pipeline.errors import ConfigError, one_line
from pipeline.types import Result

NEWEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
OVERRIDABLE = QoSOverridingOptions.with_default_policies()

# RuntimeError is the base of the middleware's errors, and raised for a bad override.
_REJECTIONS = (
    RuntimeError,
    NameValidationException,
    ParameterException,
    InvalidQoSProfileException,
    InvalidQosOverridesError,
)


class ResultTopic(NamedTuple):
    """A topic of a camera with one message for each result.

    - `name`: below the camera's prefix
    - `kind`: the type of its messages
    - `message`: makes one from a result and the header of its image
    - `always`: also called without subscribers
    - `draws`: an image; it is published after the other topics, and the newest only
    """

    name: str
    kind: type[Any]
    message: Callable[[Result, Any], Any]
    always: bool = False
    draws: bool = False


def open_publisher(
    node: Node,
    kind: type[Any],
    topic: str,
    qos: QoSProfile = NEWEST,
    overridable: QoSOverridingOptions | None = OVERRIDABLE,
) -> Any:
    """Create a publisher; raises `ConfigError` if the topic's name or QoS is not valid."""
    own = copy.copy(qos)  # rclpy writes the overrides into it
    with _errors_of(topic):
        return node.create_publisher(kind, topic, own, qos_overriding_options=overridable)


class Publishers:
    """Publishers that exist together: if one cannot be created, all are removed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: list[Any] = []

    def open(self, kind: type[Any], topic: str, **options: Any) -> Any:
        """Add a publisher; options and errors are those of `open_publisher`."""
        try:
            publisher = open_publisher(self._node, kind, topic, **options)
        except ConfigError:
            self.close()
            raise
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Remove all publishers. Idempotent."""
        while self._publishers:
            self._node.destroy_publisher(self._publishers.pop())


def open_subscription(
    node: Node,
    kind: type[Any],
    topic: str,
    on_message: Callable[[Any], None],
    qos: QoSProfile,
    overridable: QoSOverridingOptions = OVERRIDABLE,
) -> Any:
    """Create a subscription; raises `ConfigError` if the topic's name or QoS is not valid."""
    own = copy.copy(qos)
    with _errors_of(topic):
        return node.create_subscription(
            kind, topic, on_message, own, qos_overriding_options=overridable
        )


@contextmanager
def _errors_of(topic: str) -> Iterator[None]:
    try:
        yield
    except _REJECTIONS as error:
        raise ConfigError(
            f"topic {topic} cannot be created: {one_line(error)}; check its name and qos_overrides"
        ) from error
