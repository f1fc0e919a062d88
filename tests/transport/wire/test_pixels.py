"""Pixels as payloads and back."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.transport.wire import pixels as payload
from pipeline.transport.wire.messages import FrameHeader, WireError


@pytest.fixture(params=["installed", "opencv"])
def codec(request, monkeypatch):
    """Both ways to code JPEG: what is installed, and OpenCV alone."""
    if request.param == "opencv":
        monkeypatch.setattr(payload, "_simplejpeg", lambda: None)
    elif payload._simplejpeg() is None:
        pytest.skip("needs simplejpeg (pip install simplejpeg)")


def photo(width=64, height=48):
    """Smooth enough that JPEG keeps it, and unlike its mirror images."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.dstack([x, y, (x + y) / 2]).astype(np.uint8)


def header(width=64, height=48, kind="jpeg"):
    return FrameHeader(
        sender=1, count=0, camera="c", seq=0, stamp_ns=0, sent_ns=0, steady_ns=0,
        width=width, height=height, kind=kind,
    )  # fmt: skip


def decode(data, width=64, height=48):
    return payload.decode_jpeg(header(width, height), memoryview(data))


def test_raw_pixels_come_back_without_a_copy():
    sent = photo()
    got = payload.decode_raw(header(kind="raw"), payload.encode_raw(sent))
    np.testing.assert_array_equal(got, sent)
    assert np.shares_memory(got, sent)


def test_a_slice_is_sent_in_one_piece():
    part = photo()[4:20, 8:30]
    assert payload.encode_raw(part).tobytes() == part.tobytes()


@pytest.mark.usefixtures("codec")
def test_jpeg_keeps_the_picture_and_its_colour_order():
    got = decode(payload.encode_jpeg(photo(), 90))
    assert np.abs(got.astype(int) - photo().astype(int)).mean() < 2


@pytest.mark.usefixtures("codec")
def test_a_slice_encodes_as_its_copy_does():
    part = photo(128, 96)[4:52, 8:72]
    assert payload.encode_jpeg(part) == payload.encode_jpeg(part.copy())


@pytest.mark.usefixtures("codec")
def test_lower_quality_takes_fewer_bytes():
    noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    sizes = [len(payload.encode_jpeg(noisy, quality)) for quality in (95, 60, 20)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.usefixtures("codec")
def test_a_grey_jpeg_of_another_sender_is_read():
    grey = photo()[:, :, 0]
    got = decode(cv2.imencode(".jpg", grey)[1].tobytes())
    assert got.shape == (48, 64, 3)
    assert np.abs(got[:, :, 1].astype(int) - grey).mean() < 2


@pytest.mark.usefixtures("codec")
def test_a_jpeg_that_lies_on_its_side_stays_so():
    data = payload.encode_jpeg(photo())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    np.testing.assert_array_equal(decode(turned), decode(data))


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\xff\xd8\xff",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-2],
        lambda data: data[:200] + b"\xff\xd9",
        lambda data: cv2.imencode(".png", photo())[1].tobytes(),
        lambda data: data.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65_000, 65_000)),
    ],
    ids=["empty", "start only", "half", "no end", "no data", "png", "65000 x 65000"],
)
def test_what_is_no_whole_jpeg_of_the_stated_size_is_refused(damage):
    with pytest.raises(WireError) as caught:
        decode(damage(payload.encode_jpeg(photo())))
    assert caught.value.reason == "payload"


def test_a_jpeg_of_another_size_than_its_header_says_is_refused():
    with pytest.raises(WireError, match="64 x 48 pixels, its header 32 x 48"):
        decode(payload.encode_jpeg(photo()), 32, 48)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_jpeg_gives_a_picture_of_its_size_or_is_refused(data):
    noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    bits = bytearray(payload.encode_jpeg(noisy, 50))
    for _ in range(data.draw(st.integers(1, 4))):
        bits[data.draw(st.integers(2, len(bits) - 3))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(bits)).shape == (48, 64, 3)
    except WireError as error:
        assert error.reason == "payload"  # noqa: PT017 - either outcome is right


@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_the_size_of_anything_is_told_or_unknown(data):
    size = payload.jpeg_size(b"\xff\xd8\xff" + data)
    assert size is None or len(size) == 2
