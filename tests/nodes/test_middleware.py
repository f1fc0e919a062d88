"""Fast DDS gets a larger segment unless the user has configured it."""

from __future__ import annotations

import os
import re

import pytest
from sensor_msgs.msg import Image

from nodes import middleware
from nodes.middleware import OLD_VARIABLE, PROFILES, VARIABLE, make_room_for_images

CHOICES = (VARIABLE, OLD_VARIABLE, "FASTDDS_BUILTIN_TRANSPORTS", "ROS_LOCALHOST_ONLY")


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    for name in (*CHOICES, "RMW_IMPLEMENTATION"):
        monkeypatch.setenv(name, "")  # so that the variable is restored after the test
        monkeypatch.delenv(name)


def profiles():
    return [os.environ[name] for name in (VARIABLE, OLD_VARIABLE) if os.environ.get(name)]


def test_profile_holds_more_than_a_full_hd_image():
    make_room_for_images()
    assert profiles() == [str(PROFILES)]
    sizes = re.findall(r"<segment_size>(\d+)<", PROFILES.read_text())
    assert [int(size) > 4 * 1920 * 1080 * 3 for size in sizes] == [True]


@pytest.mark.parametrize("name", CHOICES)
def test_setting_of_the_user_is_kept(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    make_room_for_images()
    assert profiles() == (["1"] if name in CHOICES[:2] else [])


def test_nothing_is_set_if_shared_memory_is_short(monkeypatch):
    monkeypatch.setattr(middleware, "NEEDED_BYTES", 2**60)
    make_room_for_images()
    assert profiles() == []


def test_nothing_is_set_for_other_middleware(monkeypatch):
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    make_room_for_images()
    assert profiles() == []


def test_large_best_effort_images_arrive(start_node, observer):
    """2.7 MB each: a segment of the default size loses every one."""
    start_node("camera_node", {"source": "scene:?size=1280x720&fps=10"})
    images = observer.subscribe(Image, "image_raw", reliable=False)
    assert {(i.width, i.height) for i in images.wait(5)} == {(1280, 720)}
