"""Pictures: folders, globs, single files, and those that cannot be read."""

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

from pipeline.capture import open_source
from pipeline.capture.picture import MAX_PIXELS, picture_size, read_picture
from pipeline.errors import FrameError, SourceError


def save(path: Path, width: int = 32, height: int = 24, value: int = 128) -> Path:
    cv2.imencode(path.suffix, np.full((height, width, 3), value, np.uint8))[1].tofile(path)
    return path


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


def test_pictures_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100, 2):
        save(tmp_path / f"shot{number}.png", value=number)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub.png").mkdir()
    with open_source(str(tmp_path)) as source:
        assert (source.live, source.frames, source.fps) == (False, 5, None)
        frames = [source.read() for _ in range(5)]
        assert source.read() is None
    assert [int(frame.image[0, 0, 0]) for frame in frames if frame] == [1, 2, 9, 10, 100]
    assert [frame.seq for frame in frames if frame] == [0, 1, 2, 3, 4]


def test_picture_that_does_not_decode_is_lost_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tmp_path / "3.jpg").write_bytes(b"")
    save(tmp_path / "4.jpg")
    with open_source(str(tmp_path)) as source:
        assert source.frames == 4
        first = source.read()
        with pytest.raises(FrameError, match=r"2\.png"):
            source.read()
        with pytest.raises(FrameError, match=r"3\.jpg: the file is empty"):
            source.read()
        last = source.read()
        assert source.read() is None
    assert first is not None
    assert last is not None
    assert (first.seq, last.seq) == (0, 3)


def test_glob_finds_pictures_in_natural_order_and_leaves_others_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in (2, 10, 1):
        save(tmp_path / "a" / f"cam{number}.jpg", value=20 * number)
    (tmp_path / "a" / "cam3.txt").write_text("x")
    with open_source(str(tmp_path / "*" / "cam*")) as source:
        frames = [source.read() for _ in range(3)]
        assert source.read() is None
    assert [round(frame.image.mean() / 20) for frame in frames if frame] == [1, 2, 10]


def test_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "shot[1].png")
    with open_source(str(path)) as source:
        assert source.frames == 1


@pytest.mark.parametrize("name", ["Straße.png", "写真.jpg", "smörgås bord.bmp"])
def test_names_beyond_ascii(tmp_path: Path, name: str) -> None:
    with open_source(str(save(tmp_path / name, 40, 30))) as source:
        frame = source.read()
    assert frame is not None
    assert frame.image.shape == (30, 40, 3)
    assert frame.camera.isascii()


def test_grey_and_transparent_pictures_become_three_channels(tmp_path: Path) -> None:
    for channels, dtype in ((1, np.uint8), (4, np.uint8), (3, np.uint16)):
        path = tmp_path / f"{channels}{np.dtype(dtype).name}.png"
        cv2.imencode(".png", np.full((8, 9, channels), 100, dtype))[1].tofile(path)
        image = read_picture(path)
        assert image.shape == (8, 9, 3)
        assert image.dtype == np.uint8


def test_folder_without_pictures_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no pictures .*such as clip\.mp4"):
        open_source(str(tmp_path))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no files"):
        open_source(str(tmp_path))


def test_single_picture_that_does_not_decode_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 broken")
    with pytest.raises(SourceError, match=r"broken\.jpg"):
        open_source(str(path))


def test_huge_picture_is_refused_before_any_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_of(40_000, 40_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="40000 x 40000 pixels; at most 100 million"):
        open_source(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_picture_just_below_the_limit_is_not_refused() -> None:
    assert picture_size(png_of(10_000, 10_000)) == (10_000, 10_000)
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
    assert picture_size(data) == (width, height)


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
    assert picture_size(data) == (91, 37)


def test_size_of_a_photograph_with_much_ahead_of_its_pixels(shared: Path) -> None:
    for path in sorted((shared / "images" / "coco-val128" / "images").glob("*.jpg"))[:40]:
        height, width = cv2.imread(str(path), cv2.IMREAD_IGNORE_ORIENTATION | 1).shape[:2]
        assert picture_size(path.read_bytes()) == (width, height)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG", b"\xff\xd8", b"RIFF", b"II*\0"]))
def test_size_of_noise_never_raises(noise: bytes, magic: bytes) -> None:
    size = picture_size(magic + noise)
    assert size is None or len(size) == 2
