"""Whose turn a frame is, of those that share the frames of one stream."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.transport import Subscriber
from pipeline.transport.zmq.worker_groups import FORGET_S, Turns, ready_message, turn_prefix

TOPIC = b"frame/front"


def member(turns, group="g", wanted=b"frame/"):
    subscription = turn_prefix(group) + wanted
    turns.join(subscription)
    return subscription


def taken_by(turns, topic=TOPIC):
    """Group to the subscription of the member whose turn it is, None where all are busy."""
    return {
        group: own.removesuffix(topic) + b"frame/" if own else None
        for group, own in turns.take(topic)
    }


def test_each_frame_goes_to_the_member_that_waits_longest():
    turns = Turns()
    one, two = member(turns), member(turns)
    turns.hear(ready_message(two, 0))
    turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": two}
    assert taken_by(turns) == {"g": one}
    assert taken_by(turns) == {"g": None}


def test_a_wish_that_is_repeated_is_granted_once(monkeypatch):
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    turns = Turns()
    one = member(turns)
    for _ in range(3):
        turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": one}
    turns.hear(ready_message(one, 0))
    assert taken_by(turns) == {"g": None}
    turns.hear(ready_message(one, 1))
    assert taken_by(turns) == {"g": one}
    now_s += FORGET_S + 1
    turns.hear(ready_message(one, 1))  # it still waits for what was sent long ago
    assert taken_by(turns) == {"g": one}


def test_a_wish_that_another_publisher_has_granted_is_not_granted_beside_the_next():
    turns = Turns()
    one = member(turns)
    turns.hear(ready_message(one, 0))
    turns.hear(ready_message(one, 1))  # it has had a frame, and not from here
    assert taken_by(turns) == {"g": one}
    turns.hear(ready_message(one, 1))
    assert taken_by(turns) == {"g": None}


def test_who_has_left_gets_nothing():
    turns = Turns()
    one = member(turns)
    turns.hear(ready_message(one, 0))
    turns.leave(one)
    assert taken_by(turns) == {}
    turns.hear(ready_message(one, 1))
    assert not turns


def test_every_group_gets_the_frame():
    turns = Turns()
    one, other = member(turns, "one"), member(turns, "other")
    for each in (one, other):
        turns.hear(ready_message(each, 0))
    assert taken_by(turns) == {"one": one, "other": other}


def test_a_member_gets_the_camera_that_it_wants_and_no_other():
    turns = Turns()
    one = member(turns, wanted=b"frame/front")
    turns.hear(ready_message(one, 0))
    assert taken_by(turns, b"frame/front_left") == {}
    assert turns.take(TOPIC) == [("g", one)]


@given(st.binary(max_size=80))
def test_anything_else_that_is_said_is_passed_over(message):
    turns = Turns()
    turns.join(message)
    turns.leave(message)
    one = member(turns)
    turns.hear(message)
    turns.hear(one + message)
    assert taken_by(turns) == {"g": None}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 33, "ä"])
def test_a_group_name_that_no_topic_can_have_is_refused(name, address):
    with pytest.raises(ConfigError, match="group"):
        Subscriber(address, group=name)


def test_members_take_turns_on_frames_only(address):
    with pytest.raises(ConfigError, match="not on results"):
        Subscriber(address, results=True, group="g")
