"""Faults that users put into the scene and into files to test their own programs."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.faults import Faults, Faulty, split_path, split_scene
from pipeline.capture.readers import HangError
from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import Frame

from .conftest import FRAMES, number_of

SCENE = "scene:?size=64x48&fps=0&frames=400"


def outcomes(text: str) -> tuple[list[Frame], int]:
    """The frames that came, and how many did not decode."""
    frames, failed = [], 0
    with open_source(text) as source:
        while True:
            try:
                frame = source.read()
            except FrameError:
                failed += 1
                continue
            if frame is None:
                return frames, failed
            frames.append(frame)


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.seq for frame in frames]


def test_dropped_frames_use_up_their_numbers() -> None:
    frames, failed = outcomes(SCENE + "&drop=0.25")
    assert failed == 0
    assert 60 < 400 - len(frames) < 140  # 100 +- 4.6 standard deviations
    clean, _ = outcomes(SCENE)
    for frame in frames:
        np.testing.assert_array_equal(frame.image, clean[frame.seq].image)


def test_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    first, failed = outcomes(SCENE + "&drop=0.2&corrupt=0.2&seed=3")
    again, failed_again = outcomes(SCENE + "&drop=0.2&corrupt=0.2&seed=3")
    other, _ = outcomes(SCENE + "&drop=0.2&corrupt=0.2&seed=4")
    assert seqs(first) == seqs(again)
    assert failed == failed_again
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert seqs(first) != seqs(other)


def test_half_of_the_corrupt_frames_do_not_decode_and_half_show_noise() -> None:
    frames, failed = outcomes(SCENE + "&corrupt=0.5")
    clean, _ = outcomes(SCENE)
    noisy = [f for f in frames if not np.array_equal(f.image, clean[f.seq].image)]
    assert 60 < failed < 140
    assert 60 < len(noisy) < 140
    assert len(frames) + failed == 400


def test_image_freezes_as_often_and_as_long_as_requested(video: Path) -> None:
    frames, _ = outcomes(f"{video}?freeze_every=1s&freeze_for=250ms")
    numbers = [number_of(frame.image) for frame in frames]
    expected = list(range(FRAMES))
    expected[20:25] = [19] * 5  # 20 frames a second
    assert numbers == expected
    assert seqs(frames) == list(range(FRAMES))


def test_source_dies_after_its_time(video: Path) -> None:
    with open_source(f"{video}?die_after=500ms") as source:
        for _ in range(10):
            assert source.read() is not None
        with pytest.raises(CaptureError, match="broke after 10 frames, as die_after asks"):
            source.read()


class Ticking(Source[Frame]):
    """A live source of 50 frames a second whose clock advances only when it is read."""

    camera, live, frames, fps = "ticking", True, None, 50.0

    def __init__(self) -> None:
        self.now_ns = 0
        self._image = np.zeros((4, 4, 3), np.uint8)

    def time_ns(self) -> int:
        return self.now_ns

    def read(self) -> Frame:
        self.now_ns += 20_000_000
        return Frame(self._image, self.now_ns, self.now_ns // 20_000_000, self.camera)

    def close(self) -> None:
        pass


def test_late_frames_of_a_live_source_keep_their_stamps_and_their_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticking = Ticking()
    monkeypatch.setattr("pipeline.capture.faults.time", ticking)
    source = Faulty(ticking, Faults(delay_s=0.2))
    came, ages_ms = [], []
    for _ in range(40):
        frame = source.read()
        assert frame is not None
        came.append(frame)
        ages_ms.append((ticking.now_ns - frame.stamp_ns) / 1e6)
    assert seqs(came) == list(range(1, 41))  # all of them, although each is ten frames late
    assert ages_ms == [200] * 40
    ticking.now_ns += 100_000_000  # a late reader gets the newest that is due
    frame = source.read()
    assert frame is not None
    assert frame.seq == 45


def test_late_frames_of_a_source_that_ends_come_late_as_well() -> None:
    with open_source("scene:?size=64x48&fps=50&frames=10&delay_ms=200") as source:
        frames, ages_ms = [], []
        while (frame := source.read()) is not None:
            frames.append(frame)
            ages_ms.append((time.time_ns() - frame.stamp_ns) / 1e6)
    assert frames
    assert min(ages_ms) >= 200


def test_close_ends_a_read_that_waits_for_a_late_frame() -> None:
    source = open_source("scene:?size=64x48&fps=50&frames=2&delay_ms=60000")
    ended: list[Frame | None] = []
    reader = threading.Thread(target=lambda: ended.append(source.read()))
    reader.start()
    source.close()
    reader.join(30)
    assert ended == [None]


def test_scene_that_dies_reconnects_on_request() -> None:
    with open_source("scene:?size=64x48&fps=100&die_after=200ms", reconnect=True) as source:
        numbers: list[int] = []
        while len(numbers) < 25:
            frame = source.read()
            assert frame is not None
            numbers.append(frame.seq)
        assert source.counts()["reconnects"] >= 1
    assert numbers == sorted(set(numbers))


def test_scene_that_hangs_is_reopened_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.capture.live.HANG_GRACE_S", 0.5)
    text = "scene:?size=64x48&fps=100&hang_after=200ms"
    with open_source(text, reconnect=True, read_timeout_s=0.5) as source:
        frame: Frame | None = None
        while source.counts()["reconnects"] < 2:  # the second hang is the child's
            frame = source.read()
            assert frame is not None
        assert type(source._reader).__name__ == "ChildReader"
    with (
        open_source(text, isolate=True, open_timeout_s=30, read_timeout_s=0.5) as source,
        pytest.raises(HangError, match="reader process killed"),
    ):
        read_to_the_end(source)


def read_to_the_end(source: Source[Frame]) -> None:
    while source.read() is not None:
        pass


def test_real_file_with_a_question_mark_in_its_name_is_itself(video: Path, tmp_path: Path) -> None:
    odd = tmp_path / "clip.avi?drop=1"
    shutil.copy(video, odd)
    frames, _ = outcomes(str(odd))
    assert len(frames) == FRAMES
    frames, _ = outcomes(f"{odd}?drop=1")
    assert frames == []


def test_pattern_with_a_question_mark_is_still_a_pattern() -> None:
    assert split_path("walk/frame?x=1.png") == ("walk/frame?x=1.png", None)
    assert split_path("walk/frame??.png") == ("walk/frame??.png", None)
    assert split_path("walk/*.png?drop=0.5") == ("walk/*.png", Faults(drop=0.5))


def test_text_is_split_into_scene_and_faults() -> None:
    assert split_scene("scene:") == ("scene:", None)
    assert split_scene("scene:?size=64x48") == ("scene:?size=64x48", None)
    assert split_scene("scene:?drop=0.5") == ("scene:", Faults(drop=0.5))
    own, faults = split_scene(
        "scene:?seed=7&freeze_every=10s&delay_ms=80&corrupt=0.01&die_after=0.5m&fps=5"
    )
    assert own == "scene:?seed=7&fps=5"
    assert faults == Faults(corrupt=0.01, delay_s=0.08, freeze_every_s=10, die_after_s=30, seed=7)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("drop=2", "drop cannot be '2'; expected a share from 0 to 1"),
        ("drop=nan", "drop cannot be 'nan'"),
        ("die_after=", "die_after cannot be ''; expected a time such as 30s"),
        ("die_after=0s", "die_after cannot be '0s'"),
        ("delay_ms=-1", "delay_ms cannot be '-1'; expected milliseconds"),
        ("freeze_every=1h", "freeze_every cannot be '1h'"),
        ("freeze_every=1s&freeze_for=2s", "freeze_for .2 s. must be shorter than"),
        ("drop=0.1&seed=x", "seed cannot be 'x'; expected a whole number"),
    ],
)
def test_invalid_fault_is_refused(video: Path, query: str, message: str) -> None:
    for text in (f"scene:?{query}", f"{video}?{query}"):
        with pytest.raises(SourceError, match=message):
            open_source(text)


def test_fault_that_is_mistyped_is_corrected(video: Path) -> None:
    with pytest.raises(SourceError, match="unknown fault 'dorp'; did you mean 'drop'"):
        open_source(f"{video}?dorp=0.1")
