"""What frames, detections and other data say about values of other types and shapes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.types import Classifications, Detections, Frame, Tracks

IMAGE = np.zeros((4, 6, 3), np.uint8)
WHOLE = "must be a whole number from 0 to 2**63 - 1"
PIXELS = "Frame.image must be a non-empty (H, W, 3) uint8 array"

BAD_FRAMES = {
    "no-image": ({"image": None}, f"{PIXELS}, but got None"),
    "list": ({"image": [[1, 2]]}, f"{PIXELS}, but got list [[1, 2]]"),
    "float": ({"image": IMAGE.astype(float)}, f"{PIXELS}, but got shape (4, 6, 3) of float64"),
    "grey": ({"image": IMAGE[..., 0]}, f"{PIXELS}, but got shape (4, 6) of uint8"),
    "empty": ({"image": IMAGE[:0]}, f"{PIXELS}, but got shape (0, 6, 3) of uint8"),
    "text-for-seq": ({"seq": "7"}, f"Frame.seq {WHOLE}, but got str '7'"),
    "negative-seq": ({"seq": -1}, f"Frame.seq {WHOLE}, but got int -1"),
    "switch-for-seq": ({"seq": True}, f"Frame.seq {WHOLE}, but got bool True"),
    "no-stamp": ({"stamp_ns": None}, f"Frame.stamp_ns {WHOLE}, but got None"),
    "stamp-in-seconds": ({"stamp_ns": 1.5}, f"Frame.stamp_ns {WHOLE}, but got float 1.5"),
    "late-stamp": ({"stamp_ns": 2**63}, f"Frame.stamp_ns {WHOLE}, but got int {2**63}"),
    "no-read-time": ({"read_ns": None}, f"Frame.read_ns {WHOLE}, but got None"),
    "number-for-camera": ({"camera": 3}, "Frame.camera must be a text that names the camera"),
    "list-of-planes": ({"planes": [IMAGE]}, "Frame.planes must map names to arrays, but got list"),
    "no-plane": (
        {"planes": {"depth": None}},
        "Frame.planes['depth'] must be an array of the image's size (4, 6), but got None",
    ),
    "small-plane": (
        {"planes": {"depth": IMAGE[:2]}},
        "must be an array of the image's size (4, 6), but got shape (2, 6, 3)",
    ),
}


@pytest.mark.parametrize(("fields", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_frame_says_what_it_expected_and_what_it_got(fields, message):
    usual = {"image": IMAGE.copy(), "stamp_ns": 1, "seq": 0, "camera": "front"}
    with pytest.raises(ValueError, match=re.escape(message)):
        Frame(**{**usual, **fields})


def test_numpys_integers_become_pythons():
    frame = Frame(IMAGE.copy(), np.int64(5), np.uint16(7), "front", read_ns=np.int64(9))
    assert (frame.stamp_ns, frame.seq, frame.read_ns) == (5, 7, 9)
    assert {type(frame.stamp_ns), type(frame.seq), type(frame.read_ns)} == {int}


ONE = np.ones(1, np.float32)
BAD_ARRAYS = {
    "detections-list": (
        lambda: Detections([[1, 2, 3, 4]], ONE, ONE.astype(np.int32), ("a",)),
        "Detections.boxes must be an array of shape (0, 4) and dtype float32, but got list",
    ),
    "detections-none": (
        lambda: Detections(None, None, None, ()),
        "Detections.boxes must be an array of shape (0, 4) and dtype float32, but got None",
    ),
    "classifications": (
        lambda: Classifications([[1]], ONE, ("a",)),
        "Classifications.ids must be an array of shape (n, k), but got list [[1]]",
    ),
    "tracks": (
        lambda: Tracks(np.ones(1, np.int64), None, ONE, ONE),
        "Tracks.velocities must be an array of shape (1, 2) and dtype float32, but got None",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_results_say_which_array_they_expected(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
