"""Which member of a group gets a frame."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.transport import Subscriber
from pipeline.transport.zmq.subscriptions import (
    FORGET_S,
    WorkerGroups,
    member_prefix,
    ready_message,
)

TOPIC = b"frame/front"


def member(groups, group="g", wanted=b"frame/"):
    subscription = member_prefix(group) + wanted
    groups.join(subscription)
    return subscription


def taken_by(groups, topic=TOPIC):
    """Group to the subscription of the member whose turn it is, None if all are busy."""
    return {
        group: own.removesuffix(topic) + b"frame/" if own else None
        for group, own in groups.choose(topic)
    }


def test_each_frame_goes_to_the_member_that_waits_longest():
    groups = WorkerGroups()
    one, two = member(groups), member(groups)
    groups.note_ready(ready_message(two, 0))
    groups.note_ready(ready_message(one, 0))
    assert taken_by(groups) == {"g": two}
    assert taken_by(groups) == {"g": one}
    assert taken_by(groups) == {"g": None}


def test_a_repeated_request_is_served_once(monkeypatch):
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    groups = WorkerGroups()
    one = member(groups)
    for _ in range(3):
        groups.note_ready(ready_message(one, 0))
    assert taken_by(groups) == {"g": one}
    groups.note_ready(ready_message(one, 0))
    assert taken_by(groups) == {"g": None}
    groups.note_ready(ready_message(one, 1))
    assert taken_by(groups) == {"g": one}
    now_s += FORGET_S + 1
    groups.note_ready(ready_message(one, 1))  # it still waits for a frame that was sent long ago
    assert taken_by(groups) == {"g": one}


def test_a_request_served_by_another_publisher_is_not_served_again():
    groups = WorkerGroups()
    one = member(groups)
    groups.note_ready(ready_message(one, 0))
    groups.note_ready(ready_message(one, 1))  # it has received a frame from another publisher
    assert taken_by(groups) == {"g": one}
    groups.note_ready(ready_message(one, 1))
    assert taken_by(groups) == {"g": None}


def test_a_member_that_left_gets_nothing():
    groups = WorkerGroups()
    one = member(groups)
    groups.note_ready(ready_message(one, 0))
    groups.leave(one)
    assert taken_by(groups) == {}
    groups.note_ready(ready_message(one, 1))
    assert not groups


def test_every_group_gets_the_frame():
    groups = WorkerGroups()
    one, other = member(groups, "one"), member(groups, "other")
    for each in (one, other):
        groups.note_ready(ready_message(each, 0))
    assert taken_by(groups) == {"one": one, "other": other}


def test_a_member_gets_the_camera_that_it_wants_and_no_other():
    groups = WorkerGroups()
    one = member(groups, wanted=b"frame/front")
    groups.note_ready(ready_message(one, 0))
    assert taken_by(groups, b"frame/front_left") == {}
    assert groups.choose(TOPIC) == [("g", one)]


@given(st.binary(max_size=80))
def test_invalid_requests_are_ignored(message):
    groups = WorkerGroups()
    groups.join(message)
    groups.leave(message)
    one = member(groups)
    groups.note_ready(message)
    groups.note_ready(one + message)
    assert taken_by(groups) == {"g": None}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 33, "ä"])
def test_an_invalid_group_name_is_refused(name, address):
    with pytest.raises(ConfigError, match="group"):
        Subscriber(address, group=name)


def test_members_cannot_subscribe_to_results(address):
    with pytest.raises(ConfigError, match="cannot receive results"):
        Subscriber(address, results=True, group="g")
