"""Topics with names and QoS from the user."""

from __future__ import annotations

import pytest
from sensor_msgs.msg import Image

from nodes.topics import Publishers
from pipeline.errors import ConfigError


def test_earlier_publishers_are_removed_if_a_later_one_cannot_be_created(observer, namespace):
    publishers = Publishers(observer.node)
    publishers.open(Image, "first")
    assert publishers_of(observer.node, f"{namespace}/first") == 1
    with pytest.raises(ConfigError, match="topic second one cannot be created"):
        publishers.open(Image, "second one")
    assert publishers_of(observer.node, f"{namespace}/first") == 0


def publishers_of(node, topic):
    return sum(publisher.topic_name == topic for publisher in node.publishers)
