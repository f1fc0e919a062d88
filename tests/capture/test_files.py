"""Image files: folders, globs, single files, and files that do not decode."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError, SourceError
from pipeline.sources import open_source


def save(path: Path, width: int = 32, height: int = 24, value: int = 128) -> Path:
    cv2.imencode(path.suffix, np.full((height, width, 3), value, np.uint8))[1].tofile(path)
    return path


def test_images_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
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


def test_image_that_does_not_decode_is_named_and_the_rest_follows(tmp_path: Path) -> None:
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


def test_glob_finds_images_in_natural_order_and_ignores_other_files(tmp_path: Path) -> None:
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


def test_folder_without_images_names_its_contents(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no images .*such as clip\.mp4"):
        open_source(str(tmp_path))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no files"):
        open_source(str(tmp_path))


def test_single_image_that_does_not_decode_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 broken")
    with pytest.raises(SourceError, match=r"broken\.jpg"):
        open_source(str(path))
