"""Topics with names and QoS from the user."""

from __future__ import annotations

import pytest
from sensor_msgs.msg import Image

from nodes.parameters.topics import Publishers
from pipeline.errors import ConfigError


def test_where_a_later_topic_cannot_be_had_the_earlier_ones_go(observer, namespace):
    publishers = Publishers(observer.node)
    publishers.open(Image, "first")
    assert publishers_of(observer.node, f"{namespace}/first") == 1
    with pytest.raises(ConfigError, match="topic second one cannot be created"):
        publishers.open(Image, "second one")
    assert publishers_of(observer.node, f"{namespace}/first") == 0


def publishers_of(node, topic):
    return sum(publisher.topic_name == topic for publisher in node.publishers)
