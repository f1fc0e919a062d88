"""Lines of JSON, read back with the standard library."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import Pipeline, open_source
from pipeline.errors import InputError, OutputError
from pipeline.output import Stop
from pipeline.output.json_lines import JsonLines, result_to_dict
from pipeline.types import Classifications, Detections, Frame, Header, Media, Result

from .. import footage
from .conftest import FINER, LABELS, make_result

ROOT = Path(__file__).resolve().parents[2]


def test_line_has_the_documented_form_to_the_letter() -> None:
    detections = Detections(
        np.array([[1.234, 2.0, 300.999, 44.5]], np.float32),
        np.array([0.912345], np.float32),
        np.array([1], np.int32),
        LABELS,
        np.array([3], np.int64),
    )
    classes = Classifications(
        np.array([[0, 1]], np.int32), np.array([[0.61236, 0.2]], np.float32), FINER
    )
    result = Result(Header("front", 5, 1_700_000_000_000_000_000, 640, 480), detections, classes)
    line = result_to_dict(result, now_ns=1_700_000_000_012_345_678)
    assert json.dumps(line) == (
        '{"camera": "front", "seq": 5, "stamp_ns": 1700000000000000000, "width": 640, '
        '"height": 480, "age_ms": 12.346, "objects": [{"box": [1.23, 2.0, 301.0, 44.5], '
        '"label": "cat", "class_id": 1, "score": 0.9123, "track_id": 3, "classes": '
        '[{"label": "tabby, tabby cat", "class_id": 0, "score": 0.6124}, '
        '{"label": "espresso", "class_id": 1, "score": 0.2}]}]}'
    )


def test_lines_of_files_name_the_file_and_the_time_in_a_video(tmp_path: Path) -> None:
    clip = footage.make(tmp_path / "made.mp4", frames=4).path
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    places = []
    for source in (clip, photo):
        with Pipeline(open_source(str(source))) as results:
            lines = [result_to_dict(result) for result in results]
        places += [(line["file"], line.get("media_s")) for line in lines]
    assert places == [*((str(clip), number / 25) for number in range(4)), (str(photo), None)]


def test_name_of_a_file_that_is_not_utf8_becomes_a_line(tmp_path: Path) -> None:
    result = make_result()
    media = Media("a\udcff.mp4", 0.5)
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 1, 0, "a", recorded=True, media=media)
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as output:
        output.write(dataclasses.replace(result, frame=frame))
    assert json.loads(path.read_text())["file"] == r"a\udcff.mp4"


def test_frame_without_objects_is_a_line_too() -> None:
    line = result_to_dict(make_result(0))
    assert line["objects"] == []
    assert line["width"] == 320


def test_object_without_classifier_has_no_classes_and_without_track_minus_one() -> None:
    objects = result_to_dict(make_result(2, classify=False))["objects"]
    assert [thing["classes"] for thing in objects] == [[], []]
    assert [thing["track_id"] for thing in objects] == [-1, -1]


def test_age_is_measured_when_the_line_is_written(tmp_path: Path) -> None:
    output = JsonLines(tmp_path / "out.jsonl")
    output.write(make_result(stamp_ns=time.time_ns() - 50_000_000))
    output.close()
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert 50 <= line["age_ms"] < 10_000


def test_every_line_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    output = JsonLines(path)
    for number in range(3):
        output.write(make_result(seq=number))
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["seq"] for line in lines] == list(range(number + 1))
    output.close()
    output.close()


def test_labels_beyond_ascii_survive(tmp_path: Path) -> None:
    output = JsonLines(tmp_path / "out.jsonl")
    output.write(make_result(40))
    output.close()
    line = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert {"Käse", "猫"} <= {thing["label"] for thing in line["objects"]}


def test_numbers_are_those_of_the_result() -> None:
    result = make_result(20)
    objects = result_to_dict(result)["objects"]
    np.testing.assert_allclose(
        [thing["box"] for thing in objects], result.detections.boxes, atol=0.0051
    )
    np.testing.assert_allclose(
        [thing["score"] for thing in objects], result.detections.scores, atol=0.000051
    )


def run(program: str, **kwargs: object) -> subprocess.Popen[bytes]:
    head = (
        "import sys; sys.path[:0] = ['.', 'tests/output']\n"
        "from conftest import make_result\n"
        "from pipeline.output.json_lines import JsonLines\n"
        "from pipeline.output import Stop\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,  # type: ignore[call-overload]
    )


def test_standard_output_gets_the_lines_and_nothing_else() -> None:
    process = run("o = JsonLines('-'); o.write(make_result(seq=1)); o.write(make_result(seq=2))")
    out, err = process.communicate(timeout=120)
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2]
    assert (process.returncode, err) == (0, b"")


def test_reader_of_a_pipe_that_leaves_is_a_clean_stop() -> None:
    process = run(
        "o = JsonLines('-'); n = 0\n"
        "try:\n"
        "    while True: o.write(make_result(seq=n)); n += 1\n"
        "except Stop as stop: print(stop, file=sys.stderr)\n"
        "o.close()"
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["seq"] == 0
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b"standard output: the reader has closed it\n"
    assert process.wait(60) == 0


def test_full_disk_is_an_output_error(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    output = JsonLines("/dev/full")
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left"):
        output.write(make_result())
    output.close()


def test_file_that_grows_past_a_quota_is_an_output_error(tmp_path: Path) -> None:
    program = (
        "import resource, pathlib\n"
        "from pipeline.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"o = JsonLines({str(tmp_path / 'out.jsonl')!r})\n"
        "try:\n"
        "    while True: o.write(make_result())\n"
        "except OutputError as error: print(error)\n"
        "o.close()"
    )
    assert resource.RLIMIT_FSIZE is not None
    out, err = run(program).communicate(timeout=120)
    assert b"cannot be written: File too large" in out
    assert err == b""


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/out.jsonl", "there is no folder"), (".", "is a folder")],
    ids=["no-folder", "folder"],
)
def test_target_that_cannot_be_opened_is_bad_input(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        JsonLines(tmp_path / name)


def test_stop_is_no_error() -> None:
    assert not issubclass(Stop, OutputError)
