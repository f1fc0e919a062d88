"""Encoded images: their suffixes, sizes and limits, and how they are read, decoded and encoded.

Arrays are (H, W, 3) uint8 BGR. JPEG payloads use simplejpeg if it is installed (the extra
`jpeg`): it encodes as fast as OpenCV and decodes a 1280x720 image in a third of the time.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from pipeline.errors import FrameError
from pipeline.opencv_logging import caught_messages, quiet_opencv
from pipeline.text.files import read_bytes
from pipeline.text.native import utf8
from pipeline.types import Image

IMAGE_SUFFIXES = (
    ".bmp",
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
MAX_PIXELS = 100_000_000
"""300 MB of pixels: more than robot cameras deliver, less than what exhausts the memory."""
MAX_BYTES = 4 * MAX_PIXELS
MAX_SCANS = 100
"""Of one JPEG. Encoders make at most some twenty, and each takes as long as a whole image."""
MAX_SEGMENTS = 10_000
"""Of one JPEG, ahead of its pixels; those of photographs are a few dozen."""
JPEG_QUALITY = 90

_JPEG_MAGIC = b"\xff\xd8\xff"
_MARKERS_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_MARKERS_WITHOUT_FRAME = frozenset((0xC4, 0xC8, 0xCC))  # within C0 to CF, yet no start of a frame
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))  # starts of frames that may have all in one scan
_START_OF_SCAN = 0xDA
_LOST_PIXELS = re.compile("premature end|bad (Huffman|arithmetic) code|instead of RST", re.I)
"""What libjpeg says of data that it fills with grey."""
_LONGEST_PNM_HEADER = 65536
_PNM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM_HEADER = re.compile(rb"P[1-6]" + 2 * (_PNM_GAP + rb"(\d{1,9})") + rb"\s")

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
    return decode_image(data, str(path))


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


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the header states, None for an unknown format.

    Knows JPEG, PNG, BMP, WebP, TIFF and PNM. If a header is ambiguous, decoders find at most this.
    """
    readers = {
        _JPEG_MAGIC: jpeg_size,
        b"\x89PNG": _png_size,
        b"BM": _bmp_size,
        b"RIFF": _webp_size,
        b"II": _tiff_size,
        b"MM": _tiff_size,
        b"P": _pnm_size,
    }
    for magic, reader in readers.items():
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return None
    return None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that a JPEG states, None if the data are no JPEG."""
    for marker, at in _segments(data):
        if _is_frame(marker) and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
    return None


def _check_scans(data: bytes, subject: str) -> None:
    """Raise `FrameError` if a JPEG has more than `MAX_SCANS`, all of which a decoder would read.

    The pixels of most JPEGs are one scan, which the segments before it tell. In the pixels of
    others no byte pair equals the start of a scan.
    """
    if not data.startswith(_JPEG_MAGIC) or _has_one_scan(data):
        return
    scans = data.count(bytes((0xFF, _START_OF_SCAN)))
    if scans > MAX_SCANS:
        raise FrameError(f"{subject}: {scans} scans; at most {MAX_SCANS} are decoded")


def _has_one_scan(data: bytes) -> bool:
    """Whether the first scan has all components, so that a decoder reads no further one."""
    components = 0
    for marker, at in _segments(data):
        if _is_frame(marker):
            if marker not in _SEQUENTIAL or at + 9 >= len(data):
                return False
            components = data[at + 9]
        elif marker == _START_OF_SCAN:
            return at + 4 < len(data) and data[at + 4] == components > 0
    return False


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in _MARKERS_WITHOUT_FRAME


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG and where they are, to its first scan (ITU-T T.81, annex B)."""
    at = 2 if data.startswith(_JPEG_MAGIC) else len(data)
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _MARKERS_WITHOUT_LENGTH:
            at += 2
        else:
            yield marker, at
            if marker == _START_OF_SCAN:
                return
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int]:
    is_old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2 has 16 bits for each
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height means that rows start at the top


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The three formats of RFC 9649: lossy, lossless, and extended."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Tags 256 and 257 of the first directory, 322 and 323 if it has tiles (TIFF 6.0)."""
    order = "<" if data[:2] == b"II" else ">"
    version, at = struct.unpack_from(order + "HI", data, 2)
    if version != 42:  # 43, with files of more than 4 GB, has another layout
        return None
    size: dict[int, int] = {}
    for entry in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * entry)
        if tag in {256, 257, 322, 323} and kind in {3, 4}:
            form = order + ("H" if kind == 3 else "I")
            number = struct.unpack_from(form, data, at + 10 + 12 * entry)[0]
            size[tag] = max(size.get(tag, 0), number)
    if 256 not in size or 257 not in size:
        return None
    return max(size[256], size.get(322, 0)), max(size[257], size.get(323, 0))


def _pnm_size(data: bytes) -> tuple[int, int] | None:
    found = _PNM_HEADER.match(data, 0, _LONGEST_PNM_HEADER)
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
