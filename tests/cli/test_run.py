"""`vision run`: all outputs get all frames, and faults end a run cleanly."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import pytest

from pipeline.cli import session
from pipeline.inference.detector import Detector

FRAMES = 6
CAT = Path(__file__).resolve().parents[2] / "models" / "samples" / "cat.jpg"


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def frames_in(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_every_output_has_every_frame(vision, tmp_path):
    video, lines, stats = (tmp_path / name for name in ("a.mp4", "a.jsonl", "a.json"))
    outcome = vision(
        *("run", "scene:?fps=0&size=640x360", "--max-frames", FRAMES),
        *("--record", video, "--jsonl", lines, "--stats", stats),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    assert [line["seq"] for line in lines_of(lines.read_text())] == list(range(FRAMES))
    assert frames_in(video) == FRAMES
    figures = json.loads(stats.read_text())
    assert figures["processed"] == FRAMES
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))
    assert {"preprocess", "detect", "classify", "output"} <= set(figures["stages"])
    assert f"{FRAMES} frames in" in outcome.err


def test_only_results_go_to_standard_output(vision):
    outcome = vision("run", "scene:?fps=0", "--max-frames", FRAMES, "--jsonl", "-")
    found = lines_of(outcome.out)
    assert len(found) == FRAMES
    assert any(line["objects"] for line in found)
    assert all(len(thing["classes"]) == 5 for line in found for thing in line["objects"])


def test_quiet_prints_nothing(vision):
    outcome = vision("run", "scene:?fps=0", "--max-frames", 2, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_without_a_classifier_objects_have_no_classes(vision):
    outcome = vision(
        *("run", "scene:?fps=0", "--max-frames", FRAMES, "--jsonl", "-", "--classifier", "none")
    )
    found = lines_of(outcome.out)
    assert any(line["objects"] for line in found)
    assert not any(thing["classes"] for line in found for thing in line["objects"])


def test_options_override_the_file_and_the_file_overrides_defaults(vision, tmp_path):
    config = tmp_path / "robot.yaml"
    config.write_text(
        "source: 'scene:?fps=0'\nmax-frames: 50\nscore: 1.0\ntop: 2\njsonl: '-'\nquiet: true\n"
    )
    outcome = vision("run", "--config", config, "--max-frames", FRAMES, "--score", "0.3")
    found = lines_of(outcome.out)
    things = [thing for line in found for thing in line["objects"]]
    assert len(found) == FRAMES
    assert {len(thing["classes"]) for thing in things} == {2}
    assert min(thing["score"] for thing in things) < 1.0
    assert outcome.err == ""


def test_retry_waits_for_a_source_that_comes_later(start, tmp_path):
    process = start("run", "later.jpg", "--retry", "--jsonl", "-")
    assert b"later.jpg" in process.stderr.readline()
    shutil.copy(CAT, tmp_path / "later.part")
    (tmp_path / "later.part").rename(tmp_path / "later.jpg")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [line["camera"] for line in lines_of(out.decode())] == ["later"]


@pytest.mark.parametrize(
    ("options", "shown"), [([], True), (["--quiet"], False)], ids=["plain", "quiet"]
)
def test_progress_is_shown_on_a_terminal_and_not_with_quiet(start_on_terminal, options, shown):
    code, text = start_on_terminal("run", "scene:?fps=0&frames=20", *options)
    assert code == 0
    assert ("20/20" in text) == shown
    assert bool(text) == shown


def test_duration_ends_a_source_without_an_end(vision):
    outcome = vision("run", "scene:?size=320x240", "--duration", "2", "--jsonl", "-")
    assert outcome.code == 0
    assert lines_of(outcome.out)


def test_a_full_disk_is_a_fault_and_the_other_outputs_are_complete(vision, tmp_path):
    video, stats = tmp_path / "a.mp4", tmp_path / "a.json"
    outcome = vision(
        *("run", "scene:?fps=0&size=640x360", "--max-frames", FRAMES),
        *("--jsonl", "/dev/full", "--record", video, "--stats", stats),
    )
    assert outcome.code == 1
    assert "vision: error: --jsonl /dev/full: cannot be written: No space left on device" in (
        outcome.err
    )
    assert "Traceback" not in outcome.err
    assert json.loads(stats.read_text())["captured"] >= 1


def test_a_damaged_image_is_counted_and_skipped(vision, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(CAT.read_bytes() if i != 1 else b"no image")
    stats = tmp_path / "a.json"
    outcome = vision("run", folder, "--stats", stats)
    assert outcome.code == 0
    assert "1.jpg" in outcome.err
    figures = json.loads(stats.read_text())
    assert (figures["processed"], figures["failed"]) == (2, 1)


def test_repeated_warnings_are_limited_and_counted(vision, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.jpg").write_bytes(CAT.read_bytes() if i == 19 else b"no image")
    outcome = vision("run", folder)
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert sum(".jpg" in line for line in lines) == 5
    assert [line for line in lines if "more like these" in line] == [
        "vision: warning: ... and 14 more like these; --debug shows all"
    ]
    assert "19 failed" in lines[-1]
    everything = vision("run", folder, "--debug").err
    assert all(f"{i:02}.jpg" in everything for i in range(19))
    assert "more like these" not in everything


def test_a_source_that_fails_is_a_fault_with_its_own_message(vision, tmp_path):
    outcome = vision("run", "scene:?fps=0&size=320x240&die_after=0.2s")
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("vision: error: scene")
    assert "CaptureError" not in outcome.err


def test_a_run_interrupted_before_the_start_prints_no_summary(vision, tmp_path, monkeypatch):
    def interrupted(detector, threads):
        os.kill(os.getpid(), signal.SIGINT)

    stats = tmp_path / "a.json"
    stats.write_text("earlier")
    monkeypatch.setattr(Detector, "warm_up", interrupted)
    outcome = vision("run", "scene:", "--jsonl", tmp_path / "a.jsonl", "--stats", stats)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert os.listdir(tmp_path) == ["a.json"]
    assert stats.read_text() == "earlier"


@pytest.fixture
def broken_engine(monkeypatch):
    def fail(*arguments, **settings):
        raise ZeroDivisionError("never\nmind")

    monkeypatch.setattr(session, "Pipeline", fail)


def test_an_unexpected_error_is_one_line(vision, broken_engine):
    outcome = vision("run", "scene:")
    assert outcome.code == 1
    assert outcome.err == (
        "vision: internal error: ZeroDivisionError: never mind; run again with --debug\n"
    )


def test_debug_prints_the_traceback(vision, broken_engine):
    outcome = vision("run", "scene:", "--debug")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "in fail" in outcome.err
