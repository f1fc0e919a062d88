"""One picture file: its size before it is decoded, and its pixels."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import FrameError
from pipeline.quiet import quiet_opencv
from pipeline.types import Image

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
)
MAX_PIXELS = 100_000_000
"""300 MB of pixels: more than any camera of a robot gives, less than what brings one down."""

MAX_BYTES = 4 * MAX_PIXELS


def read_picture(path: Path) -> Image:
    """The pixels of a picture file, (H, W, 3) uint8 BGR, turned the way its EXIF data says.

    Raises `FrameError` where the file cannot be read, does not decode, or holds more than
    `MAX_PIXELS`; that is told from its first bytes, before any memory is taken.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FrameError(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
        # Read here, because OpenCV's imread does not take every path on every system.
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror}") from error
    size = picture_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise FrameError(
            f"{path}: a picture of {size[0]} x {size[1]} pixels; "
            f"at most {MAX_PIXELS // 1_000_000} million pixels are read, so scale it down"
        )
    if not data:
        raise FrameError(f"{path}: the file is empty; expected a picture")
    try:
        with quiet_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FrameError(f"{path}: does not decode: {error.err}") from error
    if image is None:
        raise FrameError(f"{path}: not a picture that can be read; its data are damaged or unknown")
    return image  # type: ignore[no-any-return]


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the file states them, None where it is of another format.

    Knows PNG, JPEG, BMP, WebP, TIFF and PNM; of others OpenCV's own limit has to do.
    """
    readers = {
        b"\x89PNG": _png,
        b"\xff\xd8": _jpeg,
        b"BM": _bmp,
        b"RIFF": _webp,
        b"II": _tiff,
        b"MM": _tiff,
        b"P": _pnm,
    }
    for magic, reader in readers.items():
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk from marker to marker (ITU-T T.81, annex B) to the start of the frame."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _bmp(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height means rows from the top


def _webp(data: bytes) -> tuple[int, int] | None:
    """The three kinds of RFC 9649: lossy, lossless, and extended."""
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


def _tiff(data: bytes) -> tuple[int, int] | None:
    """Tags 256 and 257 of the first directory (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    size = {}
    for entry in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * entry)
        if tag in {256, 257} and kind in {3, 4}:
            form = order + ("H" if kind == 3 else "I")
            size[tag] = struct.unpack_from(form, data, at + 10 + 12 * entry)[0]
    return (size[256], size[257]) if len(size) == 2 else None


def _pnm(data: bytes) -> tuple[int, int] | None:
    found = re.match(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(\d{1,9})\s", data)
    return (int(found[1]), int(found[2])) if found else None
