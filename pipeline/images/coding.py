"""Encoded images: their suffixes, sizes and limits, and how they are read, decoded and encoded.

Arrays are (H, W, 3) uint8 BGR. JPEG payloads use simplejpeg if it is installed (the extra
`jpeg`): it encodes as fast as OpenCV and decodes a 1280x720 image in a third of the time.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from pipeline.errors import FrameError
from pipeline.images.headers import (
    JPEG_MAGIC,
    START_OF_SCAN,
    has_more_images,
    image_size,
    is_frame,
    is_run_length_bmp,
    jpeg_segments,
    jpeg_size,
)
from pipeline.opencv_logging import caught_messages, quiet_opencv
from pipeline.text.files import read_bytes
from pipeline.text.native import utf8
from pipeline.types import Image

IMAGE_SUFFIXES = (
    ".bmp",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
OTHER_IMAGES = (".avif", ".gif", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".psd", ".svg", ".tga")
"""Suffixes of images that are not read, because their size is not known before they are decoded."""

MAX_PIXELS = 100_000_000
"""300 MB of pixels: more than robot cameras deliver, less than what exhausts the memory."""
MAX_BYTES = 4 * MAX_PIXELS
MAX_SCANS = 100
"""Of one JPEG. Encoders make at most some twenty, and each takes as long as a whole image."""
JPEG_QUALITY = 90

_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))  # starts of frames that may have all in one scan
_LOST_PIXELS = re.compile("premature end|bad (Huffman|arithmetic) code|instead of RST", re.I)
"""What libjpeg says of data that it fills with grey."""

log = logging.getLogger(__name__)


def is_image(path: Path) -> bool:
    """Whether the suffix of a file is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path) -> Image:
    """The pixels of an image file, rotated as its EXIF data say.

    Raises `FrameError` if the file cannot be read or does not decode, or if its header states more
    than `MAX_PIXELS`; the header is checked before any memory is allocated.
    """
    # Not cv2.imread: it does not accept every path on every system.
    data = read_bytes(path, MAX_BYTES, FrameError)
    if not data:
        raise FrameError(f"{path}: the file is empty; expected an image")
    if has_more_images(data):
        _warn_of_more_images(path.suffix)
    return decode_image(data, str(path))


@functools.cache
def _warn_of_more_images(suffix: str) -> None:
    log.warning("%s files with several images (animations, pages): only the first is read", suffix)


def size_problem(width: int, height: int) -> str:
    """Why an image, or a frame of a video, of this size is refused; empty if it is not."""
    if width * height <= MAX_PIXELS:
        return ""
    return (
        f"{width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million are read, "
        f"so scale it down"
    )


def decode_image(data: bytes, subject: str = "image") -> Image:
    """The pixels of an encoded image, rotated as its EXIF data say.

    Raises `FrameError` that begins with `subject` if the data are damaged or of a format whose
    size is not known beforehand, or if their header states more than `MAX_PIXELS` or a JPEG has
    more than `MAX_SCANS`.
    """
    size = image_size(data)
    if size is None:
        raise FrameError(f"{subject}: not a readable image; the data are damaged or unknown")
    if problem := size_problem(*size):
        raise FrameError(f"{subject}: {problem}")
    if is_run_length_bmp(data):
        raise FrameError(
            f"{subject}: a BMP compressed by run lengths; save it uncompressed or as PNG"
        )
    _check_scans(data, subject)
    return _decode(data, cv2.IMREAD_COLOR, subject)


def _decode(data: bytes, flags: int, subject: str) -> Image:
    """Decode with OpenCV, which by itself returns what libjpeg made of damaged data."""
    try:
        with quiet_opencv(), caught_messages() as said:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise FrameError(f"{subject}: does not decode: {error.err}") from error
    if image is None:
        raise FrameError(f"{subject}: not a readable image; the data are damaged or unknown")
    for line in said:
        if _LOST_PIXELS.search(line):
            raise FrameError(f"{subject}: the image is damaged: {line}")
        log.debug("%s: %s", subject, line)
    return image  # type: ignore[no-any-return]


def decode_jpeg(data: bytes) -> Image:
    """The pixels of a JPEG as they are stored: EXIF data do not rotate them.

    Raises `FrameError` if the data are not a whole JPEG, or have more than `MAX_SCANS`. The caller
    checks the size beforehand.
    """
    size = jpeg_size(data)
    if size is None:
        raise FrameError("the JPEG states no size")
    if not data.endswith(b"\xff\xd9"):
        raise FrameError("the JPEG has no end; it was cut off")
    _check_scans(data, "the JPEG")
    shape, fast = (size[1], size[0], 3), _simplejpeg()
    if fast is None:
        decoded = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, "the JPEG")
        if decoded.shape != shape:
            raise FrameError("the JPEG does not decode")
        return decoded
    image = np.empty(shape, np.uint8)
    try:
        fast.decode_jpeg(data, colorspace="BGR", buffer=image)
    except ValueError as error:
        raise FrameError(f"the JPEG does not decode: {error}") from error
    return image


def encode_jpeg(image: Image, quality: int = JPEG_QUALITY) -> bytes:
    """An image as JPEG with 4:2:0 chroma subsampling, quality 1 to 100.

    Raises `FrameError` if it cannot be encoded, such as with a side beyond 65,500 pixels.
    """
    fast = _simplejpeg()
    if fast is None:
        return encode_image(image, ".jpg", quality)
    try:
        data: bytes = fast.encode_jpeg(
            np.ascontiguousarray(image), quality=quality, colorspace="BGR", colorsubsampling="420"
        )
    except ValueError as error:
        raise FrameError(f"image of shape {image.shape} does not encode as JPEG: {error}") from (
            error
        )
    return data


def encode_image(image: Image, suffix: str, quality: int = JPEG_QUALITY) -> bytes:
    """An image as the contents of a file with this suffix; `quality` is used by JPEG alone.

    Raises `FrameError` if OpenCV has no encoder for the suffix, or the encoder fails.
    """
    is_jpeg = suffix.lower() in {".jpg", ".jpeg"}
    parameters = (cv2.IMWRITE_JPEG_QUALITY, quality) if is_jpeg else ()
    try:
        with quiet_opencv():
            is_done, data = cv2.imencode(utf8(suffix, FrameError), image, parameters)
    except cv2.error as error:
        raise FrameError(f"image of shape {image.shape} does not encode as {suffix}") from error
    if not is_done:
        raise FrameError(f"image of shape {image.shape} does not encode as {suffix}")
    return bytes(data)


def _check_scans(data: bytes, subject: str) -> None:
    """Raise `FrameError` if a JPEG has more than `MAX_SCANS`, all of which a decoder would read.

    The pixels of most JPEGs are one scan, which the segments before it tell. In the pixels of
    others no byte pair equals the start of a scan.
    """
    if not data.startswith(JPEG_MAGIC) or _has_one_scan(data):
        return
    scans = data.count(bytes((0xFF, START_OF_SCAN)))
    if scans > MAX_SCANS:
        raise FrameError(f"{subject}: {scans} scans; at most {MAX_SCANS} are decoded")


def _has_one_scan(data: bytes) -> bool:
    """Whether the first scan has all components, so that a decoder reads no further one."""
    components = 0
    for marker, at in jpeg_segments(data):
        if is_frame(marker):
            if marker not in _SEQUENTIAL or at + 9 >= len(data):
                return False
            components = data[at + 9]
        elif marker == START_OF_SCAN:
            return at + 4 < len(data) and data[at + 4] == components > 0
    return False


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
