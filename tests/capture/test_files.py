"""Files and folders of images, and their playback in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture.files import Paced
from pipeline.errors import FrameError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from .conftest import FRAMES


def save(path: Path, width: int = 32, height: int = 24, value: int = 128) -> Path:
    cv2.imencode(path.suffix, np.full((height, width, 3), value, np.uint8))[1].tofile(path)
    return path


def test_images_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100, 2):
        save(tmp_path / f"shot{number}.png", value=number)
    (tmp_path / "notes.txt").write_text("no image")
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


class Clip(Source[Frame]):
    """Frames of a recording with given times, or of a source that is not one."""

    camera, live = "clip", False

    def __init__(self, times_ms: Sequence[float], *, recorded: bool = True) -> None:
        self._times_ms = list(times_ms)
        self._recorded = recorded
        self.frames, self.fps = len(times_ms), 25.0

    def read(self) -> Frame | None:
        if not self._times_ms:
            return None
        stamp_ns = round(self._times_ms.pop(0) * 1e6)
        image = np.zeros((2, 2, 3), np.uint8)
        return Frame(image, stamp_ns, 0, self.camera, recorded=self._recorded)

    def close(self) -> None:
        self._times_ms.clear()


def read_ms(source: Source[Frame]) -> list[float]:
    """When frames were read, relative to the first."""
    times = []
    while (frame := source.read()) is not None:
        times.append(frame.read_ns / 1e6)
    return [now - times[0] for now in times]


def test_frames_come_at_the_distances_of_their_stamps() -> None:
    source = Paced(Clip([500, 540, 540, 660]))
    assert (source.camera, source.live, source.frames, source.fps) == ("clip", False, 4, 25.0)
    for came, due in zip(read_ms(source), [0, 40, 40, 160], strict=True):
        assert came >= due - 1


def test_reader_that_is_late_does_not_hurry_the_next_frames() -> None:
    source = Paced(Clip([0, 50, 100]))
    first, _ = source.read(), threading.Event().wait(0.2)
    second, third = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert third is not None
    assert third.read_ns - second.read_ns >= 49e6


def test_stamp_that_goes_back_does_not_wait() -> None:
    started = time.monotonic()
    assert len(read_ms(Paced(Clip([60_000, 0, 1])))) == 3
    assert time.monotonic() - started < 30


def test_frames_that_are_not_recorded_pass_at_once() -> None:
    started = time.monotonic()
    assert len(read_ms(Paced(Clip([0, 60_000], recorded=False)))) == 2
    assert time.monotonic() - started < 30


def test_closing_ends_the_wait() -> None:
    source = Paced(Clip([0, 60_000]))
    source.read()
    threading.Timer(0.05, source.close).start()
    assert source.read() is None


@pytest.mark.parametrize(("fps", "least_s"), [(None, 1.95), (100.0, 0.39)], ids=["own", "chosen"])
def test_file_is_played_at_its_own_or_a_chosen_rate(
    video: Path, fps: float | None, least_s: float
) -> None:
    started = time.monotonic()
    with open_source(str(video), real_time=True, fps=fps) as source:
        times = read_ms(source)
    assert len(times) == FRAMES
    assert time.monotonic() - started >= least_s


def test_live_source_is_not_played() -> None:
    with open_source("scene:?size=64x48&fps=100", real_time=True) as source:
        assert type(source).__name__ == "Scene"


def test_images_of_formats_that_are_not_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    for name in ("b.heic", "c.heic", "d.gif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with open_source(str(tmp_path)) as source:
        assert source.frames == 1
    assert "passed over 1 .gif, 2 .heic; convert them to JPEG or PNG" in caplog.text
    with pytest.raises(SourceError, match=r"b\.heic: \.heic images are not read; convert it"):
        open_source(str(tmp_path / "b.heic"))
