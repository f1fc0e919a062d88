"""What the headers of encoded images say: their size, and whether there is more than one image."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

MAX_SEGMENTS = 10_000
"""Of one JPEG, ahead of its pixels; those of photographs are a few dozen."""
JPEG_MAGIC = b"\xff\xd8\xff"
_MARKERS_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_MARKERS_WITHOUT_FRAME = frozenset((0xC4, 0xC8, 0xCC))  # within C0 to CF, yet no start of a frame
START_OF_SCAN = 0xDA
_WEBP_ANIMATION = 0x02
_RUN_LENGTHS = (1, 2)  # BI_RLE8 and BI_RLE4
_LONGEST_PNM_HEADER = 65536
_PNM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM_HEADER = re.compile(rb"P[1-6]" + 2 * (_PNM_GAP + rb"(\d{1,9})") + rb"\s")


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the header states, None for an unknown format.

    Knows JPEG, PNG, BMP, WebP, TIFF and PNM. If a header is ambiguous, decoders find at most this.
    """
    readers = {
        JPEG_MAGIC: jpeg_size,
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
    for marker, at in jpeg_segments(data):
        if is_frame(marker) and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
    return None


def is_frame(marker: int) -> bool:
    """Whether a marker of a JPEG starts a frame, whose header states the size."""
    return 0xC0 <= marker <= 0xCF and marker not in _MARKERS_WITHOUT_FRAME


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG and where they are, to its first scan (ITU-T T.81, annex B)."""
    at = 2 if data.startswith(JPEG_MAGIC) else len(data)
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0:  # no marker, which decoders skip: what follows may state another size
            return
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _MARKERS_WITHOUT_LENGTH:
            at += 2
        else:
            yield marker, at
            if marker == START_OF_SCAN:
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
        if tag in {256, 257, 322, 323}:
            if kind not in {3, 4}:  # decoders may read another number from other types
                return None
            form = order + ("H" if kind == 3 else "I")
            number = struct.unpack_from(form, data, at + 10 + 12 * entry)[0]
            size[tag] = max(size.get(tag, 0), number)
    if 256 not in size or 257 not in size:
        return None
    return max(size[256], size.get(322, 0)), max(size[257], size.get(323, 0))


def _pnm_size(data: bytes) -> tuple[int, int] | None:
    found = _PNM_HEADER.match(data, 0, _LONGEST_PNM_HEADER)
    return (int(found[1]), int(found[2])) if found else None


def has_more_images(data: bytes) -> bool:
    """Whether an image is the first of several: an animation, or the pages of a TIFF."""
    try:
        if data.startswith(b"\x89PNG"):
            return b"acTL" in data[: max(data.find(b"IDAT"), 0)]
        if data.startswith(b"RIFF") and data[12:16] == b"VP8X":
            return bool(data[20] & _WEBP_ANIMATION)
        if data[:2] in (b"II", b"MM"):
            return bool(_next_tiff_page(data))
    except (struct.error, IndexError):
        return False
    return False


def _next_tiff_page(data: bytes) -> int:
    order = "<" if data[:2] == b"II" else ">"
    at: int = struct.unpack_from(order + "I", data, 4)[0]
    entries = struct.unpack_from(order + "H", data, at)[0]
    page: int = struct.unpack_from(order + "I", data, at + 2 + 12 * entries)[0]
    return page


def is_run_length_bmp(data: bytes) -> bool:
    """Whether a BMP is compressed by run lengths, which OpenCV decodes to other pixels."""
    if not data.startswith(b"BM") or len(data) < 34:
        return False
    return struct.unpack_from("<I", data, 14)[0] >= 40 and data[30] in _RUN_LENGTHS
