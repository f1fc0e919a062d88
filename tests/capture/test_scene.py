"""The virtual camera: the same pixels everywhere, and the time of a real camera."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.capture.scene import Scene, SceneSettings, Wall
from pipeline.errors import SourceError
from pipeline.sources import open_source

SMALL = "scene:?size=320x180&fps=0&frames={}&seed={}"


def photos() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    shapes = ((50, 50, 3), (30, 45, 3), (40, 60, 3))
    return [noise.integers(0, 255, shape, np.uint8) for shape in shapes]


def digests(frames: int, seed: int = 0) -> list[str]:
    with open_source(SMALL.format(frames, seed)) as source:
        found = []
        while (frame := source.read()) is not None:
            found.append(hashlib.sha256(frame.image.tobytes()).hexdigest())
    return found


class Clock:
    """A clock that advances only on request."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def test_every_frame_differs_from_every_other_of_a_demo() -> None:
    found = digests(300)
    assert len(found) == 300
    assert len(set(found)) == 300


def test_pixels_depend_on_seed_and_number_alone() -> None:
    program = (
        "import hashlib; from pipeline.sources import open_source\n"
        f"source = open_source({SMALL.format(20, 3)!r})\n"
        "while (frame := source.read()): print(hashlib.sha256(frame.image.tobytes()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert other.stdout.split() == digests(20, seed=3)
    assert digests(20, seed=3) != digests(20, seed=4)


def test_frame_can_be_rendered_out_of_order() -> None:
    wall = Wall(photos(), SceneSettings(160, 90))
    in_order = [wall.render(number) for number in range(30)]
    np.testing.assert_array_equal(wall.render(17), in_order[17])


def test_neighbours_move_by_little() -> None:
    wall = Wall(photos(), SceneSettings())
    ring = wall._ring
    views = [wall.view(number) for number in range(600)]
    for (left, top, width, _), (next_left, next_top, next_width, _) in pairwise(views):
        step = min((next_left - left) % ring, (left - next_left) % ring)
        assert step <= 0.03 * width
        assert abs(next_top - top) <= 0.03 * width
        assert abs(next_width - width) <= 0.03 * width


def test_every_photograph_is_in_view_whole_for_a_while() -> None:
    wall = Wall(photos(), SceneSettings(1280, 720))
    middles = np.array(wall._middles[:-1])
    seen = np.zeros(3, int)
    for number in range(300):
        left, _, width, _ = wall.view(number)
        distance = np.abs(
            (left + width / 2 - middles + wall._ring / 2) % wall._ring - wall._ring / 2
        )
        seen += distance < 0.1 * width
    assert (seen >= 30).all()


@pytest.mark.parametrize("size", [(16, 16), (160, 120), (1920, 1080), (720, 1280), (4000, 100)])
def test_any_size_and_shape(size: tuple[int, int]) -> None:
    wall = Wall(photos(), SceneSettings(*size))
    for number in range(0, 600, 37):
        left, top, width, height = wall.view(number)
        assert left >= 0
        assert top >= 0
        assert left + width <= wall._pixels.shape[1]
        assert top + height <= wall._pixels.shape[0]
        assert wall.render(number).shape == (size[1], size[0], 3)


def test_photographs_keep_their_proportions() -> None:
    wall = Wall([np.zeros((100, 100, 3), np.uint8)] * 3, SceneSettings(1280, 720))
    for number in range(0, 300, 10):
        _, _, width, height = wall.view(number)
        assert width / height == pytest.approx(1280 / 720, rel=0.002)


def test_reader_in_time_gets_every_frame_at_its_time() -> None:
    clock = Clock()
    scene = Scene(photos(), SceneSettings(64, 48, fps=1000), "scene", clock)
    numbers = []
    for _ in range(5):
        frame = scene.read()
        assert frame is not None
        numbers.append(frame.seq)
        clock.now_ns += 1_000_000
    assert numbers == [0, 1, 2, 3, 4]


def test_late_reader_skips_numbers_and_gets_the_stamp_of_the_newest() -> None:
    clock = Clock()
    scene = Scene(photos(), SceneSettings(64, 48, fps=100), "scene", clock)
    first = scene.read()
    clock.now_ns += 57_000_000  # frame 5 is due at 50 ms, frame 6 at 60 ms
    before_ns = time.time_ns()
    second = scene.read()
    after_ns = time.time_ns()
    assert first is not None
    assert second is not None
    assert (first.seq, second.seq) == (0, 5)
    assert before_ns <= second.stamp_ns + 7_000_000 <= after_ns


def test_live_scene_gives_no_frame_before_its_time() -> None:
    with open_source("scene:?size=64x48&fps=100&frames=30") as source:
        assert source.live
        assert source.fps == 100
        before_s = time.monotonic()
        numbers = [frame.seq for frame in iter(source.read, None)]
        taken_s = time.monotonic() - before_s
    assert numbers == sorted(set(numbers))
    assert taken_s >= numbers[-1] / 100 - 0.001


def test_close_interrupts_the_wait_for_the_next_frame() -> None:
    source = open_source("scene:?size=64x48&fps=0.01")
    assert source.read() is not None
    reading, ended = threading.Event(), threading.Event()

    def read() -> None:
        reading.set()
        assert source.read() is None
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(30)
    source.close()
    assert ended.wait(30)
    thread.join()


def test_unpaced_scene_counts_every_frame_and_ends() -> None:
    with open_source("scene:?size=64x48&fps=0&frames=7") as source:
        assert (source.live, source.frames, source.fps) == (False, 7, None)
        numbers = [frame.seq for frame in iter(source.read, None)]
    assert numbers == list(range(7))


def test_scene_without_settings_is_a_camera_of_720_lines() -> None:
    with open_source("scene:") as source:
        frame = source.read()
    assert (source.live, source.fps, source.frames) == (True, 30.0, None)
    assert frame is not None
    assert frame.image.shape == (720, 1280, 3)
    assert frame.camera == "scene"


def test_options_apply_unless_the_text_says_otherwise() -> None:
    with open_source("scene:?fps=0", width=100, height=80, fps=15, camera="left") as source:
        frame = source.read()
    assert not source.live
    assert frame is not None
    assert frame.image.shape == (80, 100, 3)
    assert frame.camera == "left"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scene:?size=12", "size cannot be '12'"),
        ("scene:?size=1x1", "width is out of range: 1"),
        ("scene:?size=9000x100", "width is out of range: 9000"),
        ("scene:?fps=-1", "fps is out of range"),
        ("scene:?fps=nan", "fps is out of range"),
        ("scene:?fps=fast", "fps cannot be 'fast'"),
        ("scene:?frames=0", "frames is out of range"),
        ("scene:?sise=640x480", "unknown setting 'sise'; did you mean 'size'"),
        ("scene:2", "expected 'scene:'"),
    ],
)
def test_invalid_scene_is_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError, match="scene:") as error:
        open_source(text)
    assert message in str(error.value)


def test_error_for_missing_photographs_lists_the_searched_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.scene.share_dirs", lambda: [tmp_path])
    with pytest.raises(SourceError, match="no sample photographs"):
        open_source("scene:")


def test_images_of_the_users_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples").mkdir()
    cv2.imwrite(str(tmp_path / "samples" / "blue.png"), np.full((20, 20, 3), (255, 0, 0), np.uint8))
    monkeypatch.setenv("VISION_MODELS", str(tmp_path))
    with open_source("scene:?fps=0&size=64x48") as source:
        frame = source.read()
    assert frame is not None
    assert (frame.image == (255, 0, 0)).all(axis=2).mean() > 0.2
