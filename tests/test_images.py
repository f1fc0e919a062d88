"""Encoded images: sizes from the header, limits, decoding and encoding."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FrameError
from pipeline.images import (
    MAX_PIXELS,
    coding,
    decode_image,
    decode_jpeg,
    encode_image,
    encode_jpeg,
    read_image,
)
from pipeline.images.headers import image_size


def png_of(width: int, height: int) -> bytes:
    """A valid PNG of one grey, as few bytes as deflate can make of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    for channels, dtype in ((1, np.uint8), (4, np.uint8), (3, np.uint16)):
        path = tmp_path / f"{channels}{np.dtype(dtype).name}.png"
        cv2.imencode(".png", np.full((8, 9, channels), 100, dtype))[1].tofile(path)
        image = read_image(path)
        assert image.shape == (8, 9, 3)
        assert image.dtype == np.uint8


def test_huge_image_is_refused_before_any_memory_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_of(40_000, 40_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FrameError, match="40000 x 40000 pixels; at most 100 million"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n no more"], ids=["empty", "damaged"])
def test_image_that_does_not_decode_is_an_error_with_its_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FrameError, match=r"a\.png: "):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", coding.IMAGE_SUFFIXES)
def test_every_suffix_is_written_and_read(tmp_path: Path, suffix: str) -> None:
    image = np.full((24, 32, 3), 90, np.uint8)
    path = tmp_path / f"a{suffix}"
    coded = ".jpg" if suffix == ".jfif" else suffix
    path.write_bytes(encode_image(image[:, :, :1] if suffix == ".pgm" else image, coded))
    assert np.abs(read_image(path).astype(int) - image).max() <= 2


def test_bmp_of_run_lengths_is_refused() -> None:
    head = struct.pack("<2sIHHI", b"BM", 70, 0, 0, 62)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 8, 1, 4, 0, 0, 2, 0)
    data = head + info + bytes(8) + b"\x04\x01\x00\x01"
    assert image_size(data) == (4, 1)
    with pytest.raises(FrameError, match="compressed by run lengths"):
        decode_image(data)


def test_first_of_several_images_is_read_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coding._warn_of_more_images.cache_clear()
    pages = [np.full((8, 8, 3), grey, np.uint8) for grey in (90, 180)]
    for name in ("a.tiff", "b.tiff"):
        cv2.imwritemulti(str(tmp_path / name), pages)
        assert read_image(tmp_path / name).mean() == 90
    (tmp_path / "c.tiff").write_bytes(encode_image(pages[0], ".tiff"))
    read_image(tmp_path / "c.tiff")
    assert len(caplog.messages) == 1
    assert "only the first is read" in caplog.messages[0]


@pytest.mark.parametrize("is_fast", [True, False], ids=["simplejpeg", "opencv"])
def test_jpeg_is_encoded_and_decoded_alike_by_both_codecs(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    if is_fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(coding, "_simplejpeg", lambda: None)
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    image = np.dstack([x, y, (x + y) / 2]).astype(np.uint8)
    data = encode_jpeg(image, 90)
    assert np.abs(decode_jpeg(data).astype(int) - image).mean() < 2
    for damaged in (b"", data[:-2], data[: len(data) // 2], encode_image(image, ".png")):
        with pytest.raises(FrameError):
            decode_jpeg(damaged)
    with pytest.raises(FrameError, match=r"\(8, 70000, 3\) does not encode"):
        encode_jpeg(np.zeros((8, 70_000, 3), np.uint8))


def test_suffix_without_an_encoder_is_an_error() -> None:
    with pytest.raises(FrameError, match=r"does not encode as \.xyz"):
        encode_image(np.zeros((8, 8, 3), np.uint8), ".xyz")


def test_image_just_below_the_limit_is_not_refused() -> None:
    assert image_size(png_of(10_000, 10_000)) == (10_000, 10_000)
    assert MAX_PIXELS == 10_000 * 10_000


@given(
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm"]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_size_from_the_header_is_the_size_of_the_pixels(
    suffix: str, width: int, height: int
) -> None:
    data = cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()
    assert image_size(data) == (width, height)


@pytest.mark.parametrize(
    ("suffix", "flags"),
    [
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
    ids=["progressive", "restarts", "lossy", "lossless"],
)
def test_size_of_the_other_kinds_of_a_format(suffix: str, flags: list[int]) -> None:
    data = cv2.imencode(suffix, np.zeros((37, 91, 3), np.uint8), flags)[1].tobytes()
    assert image_size(data) == (91, 37)


def test_size_of_a_photograph_with_much_ahead_of_its_pixels(shared: Path) -> None:
    for path in sorted((shared / "images" / "coco-val128" / "images").glob("*.jpg"))[:40]:
        height, width = cv2.imread(str(path), cv2.IMREAD_IGNORE_ORIENTATION | 1).shape[:2]
        assert image_size(path.read_bytes()) == (width, height)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG", b"\xff\xd8", b"RIFF", b"II*\0"]))
def test_size_of_noise_never_raises(noise: bytes, magic: bytes) -> None:
    size = image_size(magic + noise)
    assert size is None or len(size) == 2


def test_size_of_a_tiff_in_another_type_is_unknown() -> None:
    data = encode_image(np.zeros((48, 64, 3), np.uint8), ".tiff")
    assert image_size(data) == (64, 48)
    for kind in (3, 4):
        entry = struct.pack("<HH", 256, kind)
        data = data.replace(entry, struct.pack("<HH", 256, 9))
    assert image_size(data) is None
