"""Recordings, read back with OpenCV."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError, OutputError
from pipeline.output.video_file import LONGEST_GAP_S, VideoFile
from pipeline.types import Result

from .conftest import make_result

START_NS = 1_700_000_000_000_000_000


def grey(number: int, size: tuple[int, int] = (64, 48), at_s: float = 0.0) -> Result:
    """A result without objects whose image has its number as its brightness."""
    image = np.full((size[1], size[0], 3), 20 + 10 * number, np.uint8)
    stamp_ns = START_NS + round(at_s * 1e9)
    return make_result(0, size=size, seq=number, stamp_ns=stamp_ns, image=image)


def write_all(output: VideoFile, count: int) -> None:
    for _ in range(count):
        output.write(grey(5))


def read_back(path: Path) -> tuple[list[int], float, tuple[int, int]]:
    """The numbers of the images, the rate and the size."""
    video = cv2.VideoCapture(str(path))
    numbers = []
    while True:
        ok, image = video.read()
        if not ok:
            size = (int(video.get(3)), int(video.get(4)))
            return numbers, video.get(cv2.CAP_PROP_FPS), size
        numbers.append(round((float(image.mean()) - 20) / 10))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov", ".MP4"])
def test_every_result_of_a_file_becomes_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    output = VideoFile(path, fps=12.5)
    for number in range(20):
        output.write(grey(number))
    output.close()
    output.close()
    numbers, fps, size = read_back(path)
    assert numbers == list(range(20))
    assert fps == pytest.approx(12.5)
    assert size == (64, 48)


@pytest.mark.parametrize("fps", [29.97002997, 29.833333, 119.88, 1000.0, 0.5])
def test_odd_rates_are_kept(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path, fps=fps)
    for number in range(3):
        output.write(grey(number))
    output.close()
    assert read_back(path)[1] == pytest.approx(fps, rel=0.001)


def test_objects_are_drawn_into_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    result = make_result(2, size=(320, 240), image=np.full((240, 320, 3), 90, np.uint8))
    output = VideoFile(path)
    output.write(result)
    output.close()
    image = cv2.VideoCapture(str(path)).read()[1]
    assert (np.ptp(image, axis=2) > 100).any()


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (161, 121), (1, 1), (3, 200)], ids=str)
def test_odd_sizes_are_recorded_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path)
    for number in range(4):
        output.write(grey(number, size))
    output.close()
    numbers, _, recorded = read_back(path)
    assert numbers == [0, 1, 2, 3]
    assert recorded == (size[0] + size[0] % 2, size[1] + size[1] % 2)


def test_image_of_another_size_is_scaled_to_the_first_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path)
    with caplog.at_level(logging.WARNING):
        for number, size in enumerate([(64, 48), (80, 60), (32, 90), (64, 48)]):
            output.write(grey(number, size))
    output.close()
    assert read_back(path)[0] == [0, 1, 2, 3]
    assert len(caplog.records) == 1
    assert "80x60" in caplog.text


def test_live_recording_repeats_and_skips_to_keep_real_time(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path, fps=10.0, live=True)
    # 0.3 s without images before number 2; 3 and 4 fall into the time of one frame.
    for number, at_s in enumerate([0.0, 0.1, 0.5, 0.59, 0.61, 0.7]):
        output.write(grey(number, at_s=at_s))
    output.close()
    assert read_back(path)[0] == [0, 1, 1, 1, 1, 2, 3, 5]


def test_live_recording_cuts_a_long_gap_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path, fps=10.0, live=True)
    for number, at_s in enumerate([0.0, 0.1, 100.0 + LONGEST_GAP_S, 100.1 + LONGEST_GAP_S]):
        output.write(grey(number, at_s=at_s))
    output.close()
    assert read_back(path)[0] == [0, 1, 2, 3]
    assert "cut out 110 s" in caplog.text


def test_stamps_that_run_backwards_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path, fps=10.0, live=True)
    for number, at_s in enumerate([0.0, 0.1, -5.0, 0.2]):
        output.write(grey(number, at_s=at_s))
    output.close()
    assert read_back(path)[0] == [0, 1, 3]


def test_a_clock_that_is_set_back_does_not_end_the_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path, fps=10.0, live=True)
    for number, at_s in enumerate([3600.0, 3600.1, 0.0, 0.1]):
        output.write(grey(number, at_s=at_s))
    output.close()
    assert read_back(path)[0] == [0, 1, 2, 3]
    assert "set back by 3600 s" in caplog.text


def test_an_older_recording_is_kept_until_the_new_one_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    output = VideoFile(path)
    output.write(grey(3))
    assert path.read_bytes() == b"older"
    output.close()
    assert read_back(path)[0] == [3]
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_behind_a_link_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "out.mp4"
    link.symlink_to("there/real.mp4")
    output = VideoFile(link)
    output.write(grey(3))
    output.close()
    assert link.is_symlink()
    assert read_back(tmp_path / "there" / "real.mp4")[0] == [3]


@pytest.mark.parametrize("older", [b"older", None], ids=["older", "none"])
def test_recording_that_cannot_be_read_leaves_an_older_one_alone(
    tmp_path: Path, older: bytes | None
) -> None:
    path = tmp_path / "out.mp4"
    if older:
        path.write_bytes(older)
    output = VideoFile(path)
    write_all(output, 5)
    # The kernel refuses to let the file grow, as on a full disk that filled up unseen.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OutputError, match=r"out\.mp4: the recording is not complete"):
            output.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == (
        {"out.mp4": older} if older else {}
    )


def test_disk_that_is_full_from_the_start_leaves_an_older_recording_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    output = VideoFile(path)
    with pytest.raises(OutputError, match="disk is full"):
        output.write(grey(0))
    output.close()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [
        ("out.mp4", b"older")
    ]


def test_run_without_results_leaves_an_older_recording_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    VideoFile(path).close()
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.gif", r"unknown video format '\.gif'; expected one of \.mp4"),
        ("out", "unknown video format ''"),
        ("missing/out.mp4", "there is no folder"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_target_that_cannot_be_recorded_is_bad_input(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=message):
        VideoFile(tmp_path / name)


def test_full_disk_ends_the_recording_so_that_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path)
    for number in range(5):
        output.write(grey(number))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=r"disk is full \(1000 bytes left\); stopped after 30"):
        write_all(output, 60)
    output.close()
    assert read_back(path)[0][:6] == [0, 1, 2, 3, 4, 5]


def test_removed_recording_is_an_error_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    output = VideoFile(path)
    output.write(grey(0))
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(OutputError, match="is not complete"):
        output.close()
    output.close()


def test_result_without_its_image_cannot_be_recorded(tmp_path: Path) -> None:
    full = grey(0)
    with pytest.raises(OutputError, match="came without its image"):
        VideoFile(tmp_path / "out.mp4").write(Result(full.header, full.detections))


def test_opencv_does_not_log_missing_codecs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = VideoFile(tmp_path / "out.mp4")
    output.write(grey(0))
    output.close()
    assert capfd.readouterr() == ("", "")


def test_repetitions_that_take_too_long_are_cut_out_and_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera with a frame every 2 s, recorded at 10 fps by an encoder that reaches 5 fps."""
    now_s = 0.0
    put = VideoFile._put

    def slow(self: VideoFile, image: np.ndarray) -> None:
        nonlocal now_s
        now_s += 0.2
        put(self, image)

    monkeypatch.setattr(VideoFile, "_put", slow)
    monkeypatch.setattr("pipeline.output.video_file.time.monotonic", lambda: now_s)
    output = VideoFile(tmp_path / "out.mp4", fps=10.0, live=True)
    for number in range(8):
        before_s = now_s
        output.write(grey(number, at_s=2.0 * number))
        assert now_s - before_s < 2.0
    output.close()
    numbers, _, _ = read_back(tmp_path / "out.mp4")
    assert sorted(set(numbers)) == list(range(8))
    assert [record.message for record in caplog.records] == [
        "--record: encoding 64x48 at 10 frames per second is too slow here; the recording "
        "is shorter than what was seen"
    ]
