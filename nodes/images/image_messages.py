"""Converts sensor_msgs images to BGR pixels and back with NumPy and OpenCV, without cv_bridge.

Every message is checked before use: `step`, `data` and sizes are not trusted. The names and layouts
of the encodings are those of sensor_msgs/image_encodings.hpp.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from pipeline.errors import FrameError
from pipeline.images import JPEG_QUALITY, decode_image, encode_jpeg
from pipeline.images.headers import image_size
from pipeline.types import Image

MAX_SIDE = 16384  # pixels; more is a damaged message rather than a camera


class _Layout(NamedTuple):
    """The memory layout of an encoding, and its conversion to BGR.

    A row has `width * channels` values of `dtype`. The number of rows is the height times the
    fraction `rows`. Width and height must be multiples of `even`.
    """

    channels: int
    convert: Callable[[npt.NDArray[Any]], Image] | None = None
    dtype: str = "u1"
    rows: tuple[int, int] = (1, 1)
    even: tuple[int, int] = (1, 1)


def _by(code: int) -> Callable[[npt.NDArray[Any]], Image]:
    def convert(pixels: npt.NDArray[Any]) -> Image:
        image: Image = cv2.cvtColor(pixels, code)
        return image

    return convert


def _mono16(pixels: npt.NDArray[np.uint16]) -> Image:
    """The upper eight bits: full scale becomes full scale."""
    return _by(cv2.COLOR_GRAY2BGR)((pixels >> 8).astype(np.uint8))


_BGR = _Layout(3)
_GRAY = _Layout(1, _by(cv2.COLOR_GRAY2BGR))
_UYVY = _Layout(2, _by(cv2.COLOR_YUV2BGR_UYVY), even=(2, 1))
_YUYV = _Layout(2, _by(cv2.COLOR_YUV2BGR_YUY2), even=(2, 1))
_BGRA = _Layout(4, _by(cv2.COLOR_BGRA2BGR))

# OpenCV names a Bayer pattern by its second row and column, ROS by the first: rggb is BG in OpenCV.
_LAYOUTS = {
    "bgr8": _BGR,
    "8UC3": _BGR,
    "rgb8": _Layout(3, _by(cv2.COLOR_RGB2BGR)),
    "bgra8": _BGRA,
    "8UC4": _BGRA,
    "rgba8": _Layout(4, _by(cv2.COLOR_RGBA2BGR)),
    "mono8": _GRAY,
    "8UC1": _GRAY,
    "mono16": _Layout(1, _mono16, dtype="u2"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "bayer_rggb8": _Layout(1, _by(cv2.COLOR_BayerBG2BGR), even=(2, 2)),
    "bayer_bggr8": _Layout(1, _by(cv2.COLOR_BayerRG2BGR), even=(2, 2)),
    "bayer_gbrg8": _Layout(1, _by(cv2.COLOR_BayerGR2BGR), even=(2, 2)),
    "bayer_grbg8": _Layout(1, _by(cv2.COLOR_BayerGB2BGR), even=(2, 2)),
    "nv12": _Layout(1, _by(cv2.COLOR_YUV2BGR_NV12), rows=(3, 2), even=(2, 2)),
    "nv21": _Layout(1, _by(cv2.COLOR_YUV2BGR_NV21), rows=(3, 2), even=(2, 2)),
}
ENCODINGS = tuple(_LAYOUTS)
DEPTH = ("16UC1", "32FC1")  # REP 118


def image_from(message: ImageMessage | CompressedImage) -> Image:
    """The image in a message, (H, W, 3) uint8 BGR; a view if it is bgr8 without padding.

    Raises `FrameError` if the encoding is unknown, or size, step and data do not match.
    """
    if isinstance(message, CompressedImage):
        return _decompressed(message)
    if message.encoding in DEPTH:
        raise FrameError(
            f"encoding {message.encoding} is that of depth images; expected an image of colours "
            f"or gray values, such as on image_raw"
        )
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise FrameError(
            f"encoding '{_shown(message.encoding)}' is not one of {', '.join(ENCODINGS)}"
        )
    pixels = _pixels(message, layout)
    return np.ascontiguousarray(pixels) if layout.convert is None else layout.convert(pixels)


def image_message(image: Image, header: Any) -> ImageMessage:
    """A bgr8 message of an (H, W, 3) uint8 BGR image, with `header` unchanged."""
    height, width = image.shape[:2]
    message = ImageMessage(
        header=header, height=height, width=width, encoding="bgr8", is_bigendian=0, step=3 * width
    )
    message.data = _byte_array(image)
    return message


def compressed_message(image: Image, header: Any, quality: int = JPEG_QUALITY) -> CompressedImage:
    """A JPEG message of an (H, W, 3) uint8 BGR image, with `header` unchanged.

    Raises `FrameError` if the image cannot be encoded (a side of more than 65500 pixels).
    """
    message = CompressedImage(header=header, format="bgr8; jpeg compressed bgr8")
    message.data = array.array("B", encode_jpeg(image, quality))
    return message


def _byte_array(values: npt.NDArray[np.uint8]) -> array.array[int]:
    """The values as the type that a message accepts without checking each byte."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).data.cast("B"))
    return data


def _pixels(message: ImageMessage, layout: _Layout) -> npt.NDArray[Any]:
    """The rows of the message without the padding at their ends."""
    width, height, step = message.width, message.height, message.step
    _check_size(width, height)
    if width % layout.even[0] or height % layout.even[1]:
        raise FrameError(f"{message.encoding} cannot have an odd size, but got {width}x{height}")
    rows = height * layout.rows[0] // layout.rows[1]
    dtype = np.dtype(layout.dtype).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * layout.channels * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if step < row_bytes:
        raise FrameError(
            f"step must be at least {row_bytes} bytes for {width} pixels of {message.encoding}, "
            f"but got {step}"
        )
    # Some publishers omit the padding of the last row.
    if not step * (rows - 1) + row_bytes <= len(data) <= step * rows:
        raise FrameError(
            f"data must be {step * rows} bytes for {height} rows of step {step} in "
            f"{message.encoding}, but got {len(data)}"
        )
    strided = np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)
    if step != row_bytes:
        strided = np.ascontiguousarray(strided)
    shape = (rows, width) if layout.channels == 1 else (rows, width, layout.channels)
    pixels: npt.NDArray[Any] = strided.view(dtype).reshape(shape)
    return pixels


def _decompressed(message: CompressedImage) -> Image:
    data, format_shown = bytes(message.data), f"format '{_shown(message.format)}'"
    if not data:
        raise FrameError("a compressed image without data")
    size = image_size(data)
    if size is None:
        raise FrameError(f"{len(data)} bytes of {format_shown} are neither JPEG nor PNG")
    _check_size(*size)
    return decode_image(data, format_shown)


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise FrameError(f"size must be 1x1 to {MAX_SIDE}x{MAX_SIDE}, got {width}x{height}")


def _shown(text: str) -> str:
    """A text from another node, made short and printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:40])
