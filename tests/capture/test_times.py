"""The stamps of recorded frames: the time of the frame in the recording, not of its reading."""

from __future__ import annotations

import itertools
import math
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture.recording import RecordingClock, movie_header
from pipeline.errors import FrameError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from .. import footage
from .conftest import FRAMES, SIZE, Server, image_of, send_file

MS = 1_000_000
START_OF_2018_04_19_NS = 1_524_096_000 * 10**9
SECONDS_FROM_1904_TO_2018_04_19 = 2_082_844_800 + 1_524_096_000


def read_all(source: Source[Frame]) -> list[Frame]:
    frames = []
    while True:
        try:
            frame = source.read()
        except FrameError:
            continue
        if frame is None:
            return frames
        frames.append(frame)


def times_ms(frames: Sequence[Frame]) -> list[float]:
    """The stamps, relative to the first."""
    return [(frame.stamp_ns - frames[0].stamp_ns) / MS for frame in frames]


def element(number: int, *parts: bytes) -> bytes:
    """An element of Matroska (RFC 8794): identifier, length in eight bytes, contents."""
    content = b"".join(parts)
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + struct.pack(">Q", 1 << 56 | len(content)) + content


def write_matroska(path: Path, times: Sequence[int]) -> Path:
    """A video with one JPEG for each time in ms, whatever their order."""
    width, height = SIZE
    track = element(
        0xAE,
        element(0xD7, b"\1"), element(0x73C5, b"\1"), element(0x83, b"\1"),
        element(0x86, b"V_MJPEG"),
        element(0xE0, element(0xB0, struct.pack(">H", width)),
                element(0xBA, struct.pack(">H", height))),
    )  # fmt: skip
    clusters = [
        element(
            0x1F43B675,
            element(0xE7, struct.pack(">Q", now)),
            element(0xA3, b"\x81\0\0\x80", cv2.imencode(".jpg", image_of(n))[1].tobytes()),
        )
        for n, now in enumerate(times)
    ]
    info = element(0x1549A966, element(0x2AD7B1, struct.pack(">I", MS)))
    head = element(0x1A45DFA3, element(0x4282, b"matroska"))
    path.write_bytes(head + element(0x18538067, info, element(0x1654AE6B, track), *clusters))
    return path


def test_stamps_of_a_file_are_the_times_in_it(video: Path) -> None:
    before = time.time_ns()
    with open_source(str(video)) as source:
        opened = time.time_ns()
        frames = read_all(source)
    assert before <= frames[0].stamp_ns <= opened
    assert times_ms(frames) == pytest.approx([50.0 * i for i in range(FRAMES)], abs=0.01)
    assert {frame.recorded for frame in frames} == {True}
    for earlier, later in itertools.pairwise(frames):
        assert opened <= earlier.read_ns <= later.read_ns <= time.time_ns()
        assert later.header.age_start_ns == later.read_ns


def test_stamps_of_a_variable_rate_are_the_times_in_the_file(tmp_path: Path) -> None:
    times = [0, 40, 80, 480, 500, 1500, 1533]
    with open_source(str(write_matroska(tmp_path / "a.mkv", times))) as source:
        assert times_ms(read_all(source)) == pytest.approx(times, abs=0.01)


def test_stream_that_starts_at_582_s_has_stamps_from_its_first_frame(tmp_path: Path) -> None:
    times = [582_000, 582_040, 582_100]
    with open_source(str(write_matroska(tmp_path / "a.mkv", times))) as source:
        frames = read_all(source)
    assert abs(time.time_ns() - frames[0].stamp_ns) < 60e9
    assert times_ms(frames) == pytest.approx([0, 40, 100], abs=0.01)


def test_times_that_go_back_still_give_increasing_stamps(tmp_path: Path) -> None:
    times = [1000, 1040, 1080, 0, 40, 80]  # two recordings, one after the other
    with open_source(str(write_matroska(tmp_path / "a.mkv", times))) as source:
        stamps = times_ms(read_all(source))
    assert len(stamps) == 6
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))
    assert stamps[:3] == pytest.approx([0, 40, 80], abs=0.01)
    assert np.diff(stamps[3:]) == pytest.approx([40, 40], abs=20)


@pytest.mark.parametrize("missing", [0.0, math.nan, math.inf, 1e13], ids=["0", "nan", "inf", "far"])
def test_positions_that_are_missing_count_as_one_period_each(missing: float) -> None:
    clock = RecordingClock(5_000 * MS, fps=20.0)
    positions = [300.0, missing, 400.0, missing, missing]
    stamps = [clock.stamp_ns(seq, now) for seq, now in enumerate(positions)]
    assert [stamp / MS for stamp in stamps] == [5000, 5050, 5100, 5150, 5200]


def test_lost_frames_before_a_missing_position_take_their_time() -> None:
    clock = RecordingClock(0, fps=20.0)
    assert [clock.stamp_ns(seq, now) / MS for seq, now in [(0, 70.0), (4, 0.0)]] == [0, 200]


@pytest.mark.parametrize("fps", [7.0, 200.0], ids=["slower", "faster"])
def test_chosen_rate_replaces_the_times_of_a_file(video: Path, fps: float) -> None:
    with open_source(str(video), fps=fps) as source:
        assert source.fps == fps
        frames = read_all(source)
    assert times_ms(frames) == pytest.approx([1000 / fps * i for i in range(FRAMES)], abs=0.001)


@pytest.mark.parametrize(("fps", "period_ms"), [(None, 1000 / 30), (5.0, 200.0)])
def test_images_have_the_rate_that_is_chosen_and_a_damaged_one_takes_its_time(
    tmp_path: Path, fps: float | None, period_ms: float
) -> None:
    for number in range(4):
        cv2.imencode(".png", image_of(number))[1].tofile(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"damaged")
    with open_source(str(tmp_path), fps=fps) as source:
        assert source.fps == fps
        frames = read_all(source)
    assert [frame.seq for frame in frames] == [0, 2, 3]
    expected = [period_ms * number for number in (0, 2, 3)]
    assert times_ms(frames) == pytest.approx(expected, abs=0.001)
    assert {frame.recorded for frame in frames} == {True}


def test_recording_that_says_when_it_began_starts_then(tmp_path: Path) -> None:
    path = footage.make(tmp_path / "made.mp4", frames=2).path
    data = bytearray(path.read_bytes())
    created = data.index(b"mvhd") + 8  # behind the name, the version and the flags
    data[created : created + 4] = struct.pack(">I", SECONDS_FROM_1904_TO_2018_04_19 + 3600)
    path.write_bytes(data)
    with open_source(str(path)) as source:
        frame = source.read()
    assert frame is not None
    assert frame.stamp_ns == movie_header(path).start_ns
    assert frame.stamp_ns == START_OF_2018_04_19_NS + 3600 * 10**9
    assert abs(time.time_ns() - frame.header.age_start_ns) < 60e9


@pytest.mark.parametrize(("scale", "rate"), [(2**31 - 1, 1), (1, 2**31 - 1)], ids=["slow", "fast"])
def test_a_rate_that_cannot_be_true_still_gives_stamps(
    video: Path, tmp_path: Path, scale: int, rate: int
) -> None:
    data = bytearray(video.read_bytes())
    struct.pack_into("<II", data, data.index(b"strh") + 28, scale, rate)
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    with open_source(str(path)) as source:
        stamps = times_ms(read_all(source))
        assert source.fps is None
    assert len(stamps) == FRAMES
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


BOXES = {
    "endless": struct.pack(">I4sQ", 1, b"free", 2**64 - 1),
    "beyond the end": struct.pack(">I4sQ", 1, b"free", 2**63 + 30),
    "of no length": struct.pack(">I4sQ", 1, b"free", 3),
    "a million": 1_000_000 * struct.pack(">I4s", 8, b"free"),
}


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES.keys())
def test_boxes_that_cannot_be_true_are_no_header(tmp_path: Path, boxes: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(boxes + bytes(100))
    start_s = time.process_time()
    assert movie_header(path) == (None, None)
    assert time.process_time() - start_s < 0.1


@pytest.mark.parametrize("is_long", [False, True], ids=["32-bit", "64-bit"])
@pytest.mark.parametrize(
    ("seconds", "expected_s"),
    [(0, None), (2_082_844_800, None), (3_800_000_000, 1_717_155_200), (2**32 - 1, None)],
    ids=["none", "1970", "2024", "2040"],
)
def test_start_of_a_recording_is_used_if_it_is_plausible(
    tmp_path: Path, is_long: bool, seconds: int, expected_s: int | None
) -> None:
    version, form = (b"\1\0\0\0", ">Q") if is_long else (bytes(4), ">I")
    header = b"mvhd" + version + struct.pack(form, seconds) + bytes(80)
    movie = b"moov" + struct.pack(">I", len(header) + 4) + header
    data = struct.pack(">I4sQ", 1, b"mdat", 16 + 5) + bytes(5)  # a box with a 64-bit length
    path = tmp_path / "a.mp4"
    path.write_bytes(data + struct.pack(">I", len(movie) + 4) + movie)
    expected = None if expected_s is None else expected_s * 10**9
    assert movie_header(path).start_ns == expected
    path.write_bytes(data[:-3])
    assert movie_header(path).start_ns is None


def test_scene_without_a_rate_is_a_recording_of_30_fps() -> None:
    with open_source("scene:?size=64x48&fps=0&frames=4") as source:
        frames = read_all(source)
    assert times_ms(frames) == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.001)
    assert {frame.recorded for frame in frames} == {True}


def test_faults_keep_the_times_of_the_frames(video: Path) -> None:
    with open_source(f"{video}?drop=0.3&freeze_every=1s&freeze_for=500ms&seed=1") as source:
        frames = read_all(source)
    assert 0 < len(frames) < FRAMES
    start_ns = frames[0].stamp_ns - frames[0].seq * 50 * MS
    expected = [start_ns + frame.seq * 50 * MS for frame in frames]
    assert [frame.stamp_ns for frame in frames] == pytest.approx(expected, abs=MS)


def test_file_on_a_server_has_the_times_in_it(server: Server, video: Path) -> None:
    server.paths["/clip.avi"] = send_file(video)
    with open_source(server.url("/clip.avi")) as source:
        frames = read_all(source)
    assert times_ms(frames) == pytest.approx([50.0 * i for i in range(FRAMES)], abs=0.01)
    assert {frame.recorded for frame in frames} == {True}


def test_live_frames_are_stamped_when_they_are_captured() -> None:
    with open_source("scene:?size=64x48&fps=50&frames=5") as source:
        frames = read_all(source)
    assert {frame.recorded for frame in frames} == {False}
    assert all(abs(time.time_ns() - frame.stamp_ns) < 60e9 for frame in frames)
