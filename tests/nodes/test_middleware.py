"""Fast DDS is set up for images only where nobody has set it up otherwise."""

from __future__ import annotations

import os
import re

import pytest
from sensor_msgs.msg import Image

from nodes import middleware
from nodes.middleware import PROFILES, VARIABLE, VARIABLE_BEFORE, make_room_for_images

CHOICES = (VARIABLE, VARIABLE_BEFORE, "FASTDDS_BUILTIN_TRANSPORTS", "ROS_LOCALHOST_ONLY")


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    for name in (*CHOICES, "RMW_IMPLEMENTATION"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)


def profiles():
    return [os.environ[name] for name in (VARIABLE, VARIABLE_BEFORE) if os.environ.get(name)]


def test_one_profile_is_set_and_holds_more_than_a_full_hd_image():
    make_room_for_images()
    assert profiles() == [str(PROFILES)]
    sizes = re.findall(r"<segment_size>(\d+)<", PROFILES.read_text())
    assert [int(size) > 4 * 1920 * 1080 * 3 for size in sizes] == [True]


@pytest.mark.parametrize("name", CHOICES)
def test_the_users_own_setting_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    make_room_for_images()
    assert profiles() == (["1"] if name in CHOICES[:2] else [])


def test_shared_memory_without_room_for_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(middleware, "NEEDED_BYTES", 2**60)
    make_room_for_images()
    assert profiles() == []


def test_other_middleware_is_left_alone(monkeypatch):
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    make_room_for_images()
    assert profiles() == []


def test_large_images_arrive_without_being_asked_for_again(start_node, observer):
    """Best effort, 2.7 MB each: a segment of the default size loses every one."""
    start_node("camera_node", {"source": "scene:?size=1280x720&fps=10"})
    images = observer.subscribe(Image, "image_raw", reliable=False)
    assert {(i.width, i.height) for i in images.wait(5)} == {(1280, 720)}
