"""Silence while things are opened, also where several threads open something at once."""

from __future__ import annotations

import logging
import os

import cv2
import pytest

from pipeline import opencv_logging
from pipeline.opencv_logging import quiet_opencv, quiet_opening

WARNING = 3
NAME = "VISION_TEST_SETTING"
opencv_log = getattr(cv2.utils, "logging", cv2)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL", raising=False)
    # What other tests have left: a reader that hangs while it opens, or debug logging.
    monkeypatch.setattr(opencv_logging, "_silencers", 0)
    monkeypatch.setattr(opencv_logging.log, "isEnabledFor", lambda level: level > logging.DEBUG)
    level = opencv_log.getLogLevel()
    opencv_log.setLogLevel(WARNING)
    yield
    opencv_log.setLogLevel(level)


def test_the_level_is_restored_when_the_last_of_overlapping_blocks_ends():
    first, second = quiet_opencv(), quiet_opencv()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert opencv_log.getLogLevel() == 0
    second.__exit__(None, None, None)
    assert opencv_log.getLogLevel() == WARNING


def test_a_setting_goes_when_the_last_of_overlapping_blocks_ends():
    first, second = quiet_opening(**{NAME: "1"}), quiet_opening(**{NAME: "2"})
    first.__enter__()
    assert os.environ[NAME] == "1"
    second.__enter__()
    assert os.environ[NAME] == "2"
    first.__exit__(None, None, None)
    assert os.environ[NAME] == "2"
    second.__exit__(None, None, None)
    assert NAME not in os.environ
    assert "OPENCV_FFMPEG_LOGLEVEL" not in os.environ


def test_what_the_user_has_set_is_left_alone(monkeypatch):
    monkeypatch.setenv(NAME, "mine")
    with quiet_opening(**{NAME: "1"}), quiet_opening(**{NAME: "2"}):
        assert os.environ[NAME] == "mine"
    assert os.environ[NAME] == "mine"
