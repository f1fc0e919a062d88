"""Which member of a group gets a frame."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.transport import Subscriber
from pipeline.transport.zmq.worker_groups import (
    FORGET_S,
    WorkerGroups,
    member_prefix,
    ready_message,
)

TOPIC = b"frame/front"


def member(groups, group="g", wanted=b"frame/"):
    subscription = member_prefix(group) + wanted
    groups.join(subscription.hex(), subscription)  # a connection of its own
    return subscription


def ask(groups, subscription, frames):
    groups.note_ready(subscription.hex(), ready_message(subscription, frames))


def taken_by(groups, topic=TOPIC):
    """Group to the subscription of the member whose turn it is, None if all are busy."""
    return {
        group: own.removesuffix(topic) + b"frame/" if own else None
        for group, own in groups.choose(topic)
    }


def test_each_frame_goes_to_the_member_that_waits_longest():
    groups = WorkerGroups()
    one, two = member(groups), member(groups)
    ask(groups, two, 0)
    ask(groups, one, 0)
    assert taken_by(groups) == {"g": two}
    assert taken_by(groups) == {"g": one}
    assert taken_by(groups) == {"g": None}


def test_a_repeated_request_is_served_once(monkeypatch):
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    groups = WorkerGroups()
    one = member(groups)
    for _ in range(3):
        ask(groups, one, 0)
    assert taken_by(groups) == {"g": one}
    ask(groups, one, 0)
    assert taken_by(groups) == {"g": None}
    ask(groups, one, 1)
    assert taken_by(groups) == {"g": one}
    now_s += FORGET_S + 1
    ask(groups, one, 1)  # it still waits for a frame that was sent long ago
    assert taken_by(groups) == {"g": one}


def test_a_request_served_by_another_publisher_is_not_served_again():
    groups = WorkerGroups()
    one = member(groups)
    ask(groups, one, 0)
    ask(groups, one, 1)  # it has received a frame from another publisher
    assert taken_by(groups) == {"g": one}
    ask(groups, one, 1)
    assert taken_by(groups) == {"g": None}


def test_a_member_that_left_gets_nothing():
    groups = WorkerGroups()
    one = member(groups)
    ask(groups, one, 0)
    groups.leave(one.hex(), one)
    assert taken_by(groups) == {}
    ask(groups, one, 1)
    assert not groups


def test_a_request_of_another_connection_is_not_the_members():
    groups = WorkerGroups()
    one = member(groups)
    groups.note_ready("other", ready_message(one, 0))
    assert taken_by(groups) == {"g": None}
    groups.leave("other", one)
    ask(groups, one, 0)
    assert taken_by(groups) == {"g": one}


def test_a_connection_is_one_member_of_one_group():
    groups = WorkerGroups()
    honest = member(groups)
    claims = [member_prefix(group) + b"frame/" for group in ["g"] * 30 + ["other"]]
    for claim in claims:
        groups.join("many", claim)
        groups.note_ready("many", ready_message(claim, 0))
    ask(groups, honest, 0)
    assert taken_by(groups) == {"g": claims[0]}
    assert taken_by(groups) == {"g": honest}
    assert taken_by(groups) == {"g": None}
    groups.leave("many", claims[0])
    groups.join("many", claims[1])  # it may be another member once it is none
    groups.note_ready("many", ready_message(claims[1], 0))
    assert taken_by(groups) == {"g": claims[1]}


def test_a_member_with_many_cameras_takes_turns_with_the_others():
    groups = WorkerGroups()
    name, honest = member_prefix("g"), member(groups)
    wanted = [name + b"frame/", name + b"frame/front", name + b"frame/front/"]
    for subscription in wanted:
        groups.join("many", subscription)
        groups.note_ready("many", ready_message(subscription, 0))
    ask(groups, honest, 0)
    takers = [groups.choose(TOPIC)[0][1].rpartition(TOPIC)[0] for _ in range(3)]
    assert takers == [name, honest.removesuffix(b"frame/"), name]


def test_every_group_gets_the_frame():
    groups = WorkerGroups()
    one, other = member(groups, "one"), member(groups, "other")
    for each in (one, other):
        ask(groups, each, 0)
    assert taken_by(groups) == {"one": one, "other": other}


def test_a_member_gets_the_camera_that_it_wants_and_no_other():
    groups = WorkerGroups()
    one = member(groups, wanted=b"frame/front")
    ask(groups, one, 0)
    assert taken_by(groups, b"frame/front_left") == {}
    assert groups.choose(TOPIC) == [("g", one)]


@given(st.binary(max_size=80))
def test_invalid_requests_are_ignored(message):
    groups = WorkerGroups()
    groups.join("other", message)
    groups.leave("other", message)
    one = member(groups)
    groups.note_ready(one.hex(), message)
    groups.note_ready(one.hex(), one + message)
    assert taken_by(groups) == {"g": None}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 33, "ä"])
def test_an_invalid_group_name_is_refused(name, address):
    with pytest.raises(ConfigError, match="group"):
        Subscriber(address, group=name)


def test_members_cannot_subscribe_to_results(address):
    with pytest.raises(ConfigError, match="cannot receive results"):
        Subscriber(address, results=True, group="g")
