"""Frames as payloads and back: pixels, JPEG and planes."""

from __future__ import annotations

import struct

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images import coding
from pipeline.images.headers import jpeg_size
from pipeline.transport.wire import frames
from pipeline.transport.wire.messages import FrameMessage, decode, encode
from pipeline.transport.wire.schema import FrameHeader, Limits, PlaneHeader, WireError


@pytest.fixture(params=["installed", "opencv"])
def codec(request, monkeypatch):
    """Both ways to code JPEG: what is installed, and OpenCV alone."""
    if request.param == "opencv":
        monkeypatch.setattr(coding, "_simplejpeg", lambda: None)
    elif coding._simplejpeg() is None:
        pytest.skip("needs simplejpeg (pip install simplejpeg)")


def photo(width=64, height=48):
    """Smooth enough that JPEG keeps it, and unlike its mirror images."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.dstack([x, y, (x + y) / 2]).astype(np.uint8)


def header(width=64, height=48, kind="jpeg", planes=()):
    return FrameHeader(
        version=2, sender=1, count=0, camera="c", seq=0, stamp_ns=0, sent_ns=0, steady_ns=0,
        width=width, height=height, kind=kind, planes=planes,
    )  # fmt: skip


def decode_jpeg(data, width=64, height=48):
    return frames.decode_jpeg(header(width, height), memoryview(data))


def no_slot(reference, shape):
    raise AssertionError("nothing is in shared memory")


def test_raw_pixels_come_back_without_a_copy():
    sent = photo()
    message = FrameMessage(header(kind="raw"), frames.encode_raw(sent))
    got = frames.frame_of(message, no_slot)
    np.testing.assert_array_equal(got.image, sent)
    assert np.shares_memory(got.image, sent)


PLANES = {
    "depth-in-metres": np.linspace(0, 5, 48 * 64, dtype=np.float32).reshape(48, 64),
    "depth-in-millimetres": np.arange(48 * 64, dtype=np.uint16).reshape(48, 64),
    "flow": np.random.default_rng(0).normal(size=(48, 64, 2)).astype(np.float16),
    "big-endian": np.arange(48 * 64, dtype=">i4").reshape(48, 64),
    "slice": np.arange(96 * 128, dtype=np.float64).reshape(96, 128)[::2, ::2],
}


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize("kind", ["raw", "jpeg", "shm"])
def test_planes_come_back_as_they_were_sent(kind, plane):
    name = "depth" if plane.dtype in (np.float32, np.uint16) else "other"
    described = frames.plane_headers({name: plane, "mask": photo()[:, :, 0]})
    payloads = frames.plane_payloads({name: plane, "mask": photo()[:, :, 0]})
    slot = np.zeros(100_000, np.uint8)
    if kind == "shm":
        pixels = encode_reference()
        starts, _ = frames.layout([photo().nbytes, *map(len, payloads)])
        for start, data in zip(starts, [photo().tobytes(), *payloads], strict=True):
            slot[start : start + len(data)] = np.frombuffer(data, np.uint8)
        payloads = []
    else:
        pixels = photo().tobytes() if kind == "raw" else frames.encode_jpeg(photo())
    head = encode(header(kind=kind, planes=described))
    message = decode([b"frame/c", head, pixels, *payloads], Limits())
    got = frames.frame_of(message, lambda reference, shape: slot[: np.prod(shape)].reshape(shape))
    assert list(got.planes) == [name, "mask"]
    np.testing.assert_array_equal(got.planes[name], plane)
    np.testing.assert_array_equal(got.planes["mask"], photo()[:, :, 0])
    assert got.planes[name].dtype == plane.dtype.newbyteorder("=")
    assert not got.planes[name].flags.writeable


def encode_reference():
    reference = {"ring": "1-0123456789abcdef", "slot": 0, "generation": 2}
    return msgspec.msgpack.encode(reference)


def test_a_depth_plane_has_its_unit():
    depth = PLANES["depth-in-metres"]
    assert frames.plane_headers({"depth": depth}) == (
        PlaneHeader("depth", "float32", (48, 64), "m"),
    )


@pytest.mark.parametrize(
    "planes",
    [
        {f"plane_{i}": photo()[:, :, 0] for i in range(9)},
        {"mask": np.zeros((48, 64), bool)},
        {"names": np.full((48, 64), "a")},
        {"volume": np.zeros((48, 64, 2, 2), np.uint8)},
    ],
    ids=["nine", "bool", "text", "four axes"],
)
def test_planes_that_a_receiver_refuses_are_not_sent(planes):
    with pytest.raises(WireError):
        frames.plane_headers(planes)


def test_a_slice_is_sent_in_one_piece():
    part = photo()[4:20, 8:30]
    assert frames.encode_raw(part).tobytes() == part.tobytes()


@pytest.mark.usefixtures("codec")
def test_jpeg_keeps_the_image_and_its_colour_order():
    got = decode_jpeg(frames.encode_jpeg(photo(), 90))
    assert np.abs(got.astype(int) - photo().astype(int)).mean() < 2


@pytest.mark.usefixtures("codec")
def test_a_slice_encodes_like_its_copy():
    part = photo(128, 96)[4:52, 8:72]
    assert frames.encode_jpeg(part) == frames.encode_jpeg(part.copy())


@pytest.mark.usefixtures("codec")
def test_lower_quality_takes_fewer_bytes():
    noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    sizes = [len(frames.encode_jpeg(noisy, quality)) for quality in (95, 60, 20)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.usefixtures("codec")
def test_a_grey_jpeg_is_decoded():
    grey = photo()[:, :, 0]
    got = decode_jpeg(cv2.imencode(".jpg", grey)[1].tobytes())
    assert got.shape == (48, 64, 3)
    assert np.abs(got[:, :, 1].astype(int) - grey).mean() < 2


@pytest.mark.usefixtures("codec")
def test_exif_data_do_not_rotate_a_jpeg():
    data = frames.encode_jpeg(photo())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    np.testing.assert_array_equal(decode_jpeg(turned), decode_jpeg(data))


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
def test_an_incomplete_jpeg_or_one_of_another_size_is_refused(damage):
    with pytest.raises(WireError) as caught:
        decode_jpeg(damage(frames.encode_jpeg(photo())))
    assert caught.value.reason == "payload"


def test_a_jpeg_of_another_size_than_its_header_is_refused():
    with pytest.raises(WireError, match="64 x 48 pixels, its header 32 x 48"):
        decode_jpeg(frames.encode_jpeg(photo()), 32, 48)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_jpeg_decodes_to_its_size_or_is_refused(data):
    noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    bits = bytearray(frames.encode_jpeg(noisy, 50))
    for _ in range(data.draw(st.integers(1, 4))):
        bits[data.draw(st.integers(2, len(bits) - 3))] = data.draw(st.integers(0, 255))
    try:
        assert decode_jpeg(bytes(bits)).shape == (48, 64, 3)
    except WireError as error:
        assert error.reason == "payload"  # noqa: PT017 - either outcome is right


@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_the_size_of_random_bytes_is_read_or_unknown(data):
    size = jpeg_size(b"\xff\xd8\xff" + data)
    assert size is None or len(size) == 2
