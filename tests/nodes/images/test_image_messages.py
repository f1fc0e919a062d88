"""Messages to pixels and back, compared with inverse conversions and hand-computed values."""

from __future__ import annotations

import array
import struct
import zlib

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from nodes.images.image_messages import ENCODINGS, compressed_message, image_from, image_message
from pipeline.errors import FrameError


def message(pixels, encoding, *, width=None, height=None, step=None, bigendian=0):
    """A message as a publisher fills it, from an array of rows."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    built = Image(
        encoding=encoding,
        height=len(pixels) if height is None else height,
        width=pixels.shape[1] if width is None else width,
        step=rows.shape[1] if step is None else step,
        is_bigendian=bigendian,
    )
    built.data = array.array("B", rows.tobytes())
    return built


@pytest.fixture
def image_bgr():
    """A smooth image, so that halved colour resolution and a Bayer pattern lose little."""
    y, x = np.mgrid[0:48, 0:64].astype(np.float32)
    return np.stack([40 + 2 * x, 60 + 3 * y, 200 - x - y], axis=2).astype(np.uint8)


def test_bgr8_is_not_copied(image_bgr):
    sent = message(image_bgr, "bgr8")
    image = image_from(sent)
    np.testing.assert_array_equal(image, image_bgr)
    sent.data[0] ^= 255
    assert image[0, 0, 0] == sent.data[0]
    assert not image.flags.writeable


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
    ],
)
def test_channels_are_reordered_to_bgr(image_bgr, encoding, code):
    np.testing.assert_array_equal(
        image_from(message(cv2.cvtColor(image_bgr, code), encoding)), image_bgr
    )


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(image_bgr, encoding):
    grey = image_bgr[:, :, 1]
    image = image_from(message(grey, encoding))
    for channel in range(3):
        np.testing.assert_array_equal(image[:, :, channel], grey)


@pytest.mark.parametrize(("order", "bigendian"), [("<", 0), (">", 1)], ids=["little", "big"])
def test_mono16_honours_its_byte_order(image_bgr, order, bigendian):
    wide = (image_bgr[:, :, 1].astype(np.uint16) * 256 + 255).astype(f"{order}u2")
    image = image_from(message(wide, "mono16", bigendian=bigendian))
    np.testing.assert_array_equal(image[:, :, 0], image_bgr[:, :, 1])


def luma_and_chroma(image_bgr):
    """Full-resolution Y, U and V by the formula of ITU-R BT.601 for 8 bits (16 to 235)."""
    b, g, r = (image_bgr[:, :, i].astype(float) for i in range(3))
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return (np.rint(plane).astype(np.uint8) for plane in (y, u, v))


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_packed_422_is_decoded_in_the_order_of_its_encoding(image_bgr, encoding, order):
    y, u, v = luma_and_chroma(image_bgr)
    packed = np.empty((48, 128), np.uint8)
    luma = order.index("Y")
    packed[:, luma::2] = y
    packed[:, order.index("U") :: 4] = u[:, ::2]
    packed[:, order.index("V") :: 4] = v[:, ::2]
    image = image_from(message(packed, encoding, width=64))
    assert np.abs(image.astype(int) - image_bgr).max() <= 6


@pytest.mark.parametrize(("encoding", "first"), [("nv12", 0), ("nv21", 1)])
def test_420_is_decoded_with_chroma_rows_below_luma(image_bgr, encoding, first):
    y, u, v = luma_and_chroma(image_bgr)
    rows = np.empty((72, 64), np.uint8)
    rows[:48] = y
    rows[48:, first::2] = u[::2, ::2]
    rows[48:, 1 - first :: 2] = v[::2, ::2]
    image = image_from(message(rows, encoding, height=48))
    assert image.shape == image_bgr.shape
    assert np.abs(image.astype(int) - image_bgr).max() <= 8


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_start_at_the_first_pixel(image_bgr, pattern):
    mosaic = np.empty((48, 64), np.uint8)
    for place, color in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = image_bgr[row::2, column::2, "bgr".index(color)]
    image = image_from(message(mosaic, f"bayer_{pattern}8"))
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(image[inner].astype(int) - image_bgr[inner]).max() <= 4


@pytest.mark.parametrize("encoding", ["bgr8", "mono8", "mono16"])
def test_row_padding_is_removed(image_bgr, encoding):
    pixels = {"bgr8": image_bgr, "mono8": image_bgr[:, :, 0]}.get(encoding)
    if pixels is None:
        pixels = image_bgr[:, :, 0].astype(np.uint16) << 8
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(48, -1)
    padded = np.full((48, rows.shape[1] + 8), 7, np.uint8)
    padded[:, : rows.shape[1]] = rows
    sent = message(padded, encoding, width=64)
    expected = image_from(message(pixels, encoding))
    np.testing.assert_array_equal(image_from(sent), expected)
    sent.data = sent.data[:-8]  # the last row without its padding
    np.testing.assert_array_equal(image_from(sent), expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "32FC3"}, "encoding '32FC3' is not one of bgr8"),
        ({"encoding": "16UC1"}, "encoding 16UC1 is that of depth images; expected .* colours"),
        ({"encoding": "32FC1"}, "encoding 32FC1 is that of depth images; expected .* colours"),
        ({"encoding": "evil\n\x1b[31m" + "x" * 1000}, r"encoding 'evil\?\?\[31mx{30}' is not"),
        ({"step": 191}, "step must be at least 192 bytes for 64 pixels of bgr8, but got 191"),
        ({"step": 193}, "data must be 9264 bytes for 48 rows"),
        ({"data": array.array("B", bytes(9215))}, "data must be 9216 bytes .* but got 9215"),
        ({"data": array.array("B", bytes(9217))}, "data must be 9216 bytes .* but got 9217"),
        ({"data": array.array("B")}, "data must be 9216 bytes .* but got 0"),
        ({"height": 0}, "size must be 1x1 to 16384x16384, got 64x0"),
        ({"width": 4294967295}, "size must be .* got 4294967295x48"),
        ({"height": 4294967295, "step": 4294967295}, "size must be .* got 64x4294967295"),
        ({"encoding": "yuyv", "width": 63}, "yuyv cannot have an odd size, but got 63x48"),
        ({"encoding": "nv12", "height": 47}, "nv12 cannot have an odd size, but got 64x47"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_error_says_what_was_expected(image_bgr, changes, reason):
    sent = message(image_bgr, "bgr8")
    for name, value in changes.items():
        setattr(sent, name, value)
    with pytest.raises(FrameError, match=reason):
        image_from(sent)


def test_every_encoding_rejects_short_data():
    for encoding in ENCODINGS:
        sent = Image(encoding=encoding, width=64, height=48, step=1024)
        sent.data = array.array("B", bytes(1024))
        with pytest.raises(FrameError, match="data must be"):
            image_from(sent)


def test_image_survives_a_round_trip(image_bgr):
    header = Header(frame_id="somewhere")
    header.stamp.sec, header.stamp.nanosec = 12, 345
    sent = image_message(image_bgr[:, ::-1], header)  # not contiguous
    assert (sent.header, sent.width, sent.height, sent.step) == (header, 64, 48, 192)
    np.testing.assert_array_equal(image_from(sent), image_bgr[:, ::-1])


def test_compressed_image_survives_a_round_trip(image_bgr):
    header = Header(frame_id="somewhere")
    sent = compressed_message(image_bgr, header, quality=98)
    assert sent.header == header
    assert "jpeg" in sent.format
    assert np.abs(image_from(sent).astype(int) - image_bgr).max() <= 6


def test_png_is_decoded(image_bgr):
    sent = CompressedImage(format="png")
    sent.data = array.array("B", cv2.imencode(".png", image_bgr)[1].tobytes())
    np.testing.assert_array_equal(image_from(sent), image_bgr)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without data"),
        (b"not an image", "12 bytes of format 'jpeg' are neither JPEG nor PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "neither JPEG nor PNG"),
    ],
    ids=["empty", "text", "broken"],
)
def test_damaged_compressed_data_is_an_error(data, reason):
    sent = CompressedImage(format="jpeg")
    sent.data = array.array("B", data)
    with pytest.raises(FrameError, match=reason):
        image_from(sent)


def test_image_with_an_enormous_claimed_size_is_an_error():
    """A PNG whose header says 30000x30000, without data."""
    small = bytearray(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    small[16:24] = (30000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(bytes(small[12:29])).to_bytes(4, "big")
    sent = CompressedImage(format="png")
    sent.data = array.array("B", bytes(small))
    with pytest.raises(FrameError, match="got 30000x30000"):
        image_from(sent)


def test_small_message_with_too_many_pixels_is_rejected_before_decoding():
    """A valid PNG of 15000x15000 in one colour: 675 MB of pixels in less than 1 MB of data."""
    row = zlib.compressobj()
    rows = b"".join(row.compress(bytes(1 + 15000)) for _ in range(15000)) + row.flush()
    sent = CompressedImage(format="png")
    sent.data = array.array("B", png(15000, 15000, rows))
    with pytest.raises(FrameError, match="15000 x 15000 pixels"):
        image_from(sent)


def png(width, height, rows):
    """A grey PNG of compressed rows."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
