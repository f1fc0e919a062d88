"""Files that are written: private, never through links of others, and complete or named."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError, OutputError
from pipeline.files.locking import exclusive
from pipeline.files.writing import PartialFile, abandoned_files, write_atomically
from pipeline.output.files import write_stats
from pipeline.output.json_lines import JsonLines
from pipeline.output.video_file import VideoFile
from tests.faults.processes import WAIT_S, Command, wait_for
from tests.output.conftest import make_result

RECORDED = ("--record", "a.mp4", "--jsonl", "a.jsonl", "--stats", "a.json")


@pytest.fixture(autouse=True)
def _usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def start(tmp_path):
    """Start a command in an empty folder; it is killed at the end of the test."""
    commands = []

    def start(*arguments: object) -> Command:
        commands.append(Command(*arguments, folder=tmp_path))
        return commands[-1]

    yield start
    for command in commands:
        command.kill()


def result():
    image = np.zeros((48, 64, 3), np.uint8)
    return make_result(0, size=(64, 48), seq=0, stamp_ns=10**18, image=image)


def record(path: Path) -> list[Path]:
    """Record a frame; returns the hidden files that were in the folder meanwhile."""
    output = VideoFile(path)
    output.write(result())
    hidden = list(path.parent.glob(".*"))
    output.close()
    return hidden


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_hidden_names_are_random(tmp_path):
    hidden = [file for _ in range(3) for file in record(tmp_path / "a.mp4")]
    assert len(set(hidden)) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    "write", [record, lambda path: write_stats(path, {})], ids=["video", "stats"]
)
def test_a_link_at_a_guessed_hidden_name_is_not_followed(tmp_path, monkeypatch, write):
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    partial = PartialFile(tmp_path / "a.mp4")
    partial.discard()
    partial.path.symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"):
        write(tmp_path / "a.mp4")
    assert victim.read_bytes() == b"precious"


def test_a_file_put_in_place_of_a_recording_is_not_published(tmp_path):
    output = VideoFile(tmp_path / "a.mp4")
    output.write(result())
    (hidden,) = tmp_path.glob(".*")
    hidden.rename(tmp_path / "away.mp4")
    hidden.symlink_to(tmp_path / "away.mp4")
    with pytest.raises(OutputError, match="was the file removed"):
        output.close()
    assert not os.path.lexists(tmp_path / "a.mp4")


def test_recordings_are_private_and_other_files_as_the_umask_says(tmp_path):
    hidden = record(tmp_path / "a.mp4")
    assert hidden
    assert mode_of(tmp_path / "a.mp4") == 0o600
    write_stats(tmp_path / "a.json", {})
    assert mode_of(tmp_path / "a.json") == 0o644


def test_a_replaced_file_keeps_its_mode(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.mp4").chmod(0o640)
    record(tmp_path / "a.mp4")
    assert mode_of(tmp_path / "a.mp4") == 0o640


def test_names_of_255_bytes_are_written(tmp_path):
    for name in ("é" * 125 + "a.mp4", "a" * 251 + ".mp4"):
        record(tmp_path / name)
        assert [file.name for file in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_pipe_is_refused_rather_than_replaced_by_a_recording(tmp_path):
    pipe = tmp_path / "a.mp4"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"a\.mp4: is a pipe or a device"):
        VideoFile(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    "write",
    [lambda path: write_stats(path, {"a": 1}), lambda path: write_atomically(path, b'{"a": 1}')],
    ids=["stats", "others"],
)
def test_a_pipe_stays_a_pipe_and_gets_what_is_written(tmp_path, write):
    pipe = tmp_path / "a.json"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(json.loads(pipe.read_text())))
    reader.start()
    write(pipe)
    reader.join(WAIT_S)
    assert read == [{"a": 1}]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_two_runs_cannot_write_to_one_file_of_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("older\n")
    with JsonLines(path) as first:
        first.write(result())
        with JsonLines(path) as second, pytest.raises(InputError, match="another run is writing"):
            second.write(result())
        first.write(result())
    assert len(path.read_text().splitlines()) == 2
    with JsonLines(path) as third:
        third.write(result())
    assert len(path.read_text().splitlines()) == 1


def test_lines_may_go_to_a_device(tmp_path):
    with JsonLines("/dev/null") as first, JsonLines("/dev/null") as second:
        first.write(result())
        second.write(result())


def test_what_a_killed_run_has_left_is_named_and_an_empty_rest_removed(start, tmp_path):
    killed = start("run", "scene:?size=160x120", *RECORDED)
    wait_for(lambda: any(file.stat().st_size for file in tmp_path.glob(".*.part.mp4")), "recording")
    (left,) = tmp_path.glob(".*.part.mp4")
    empty = left.with_name(left.name.replace("a.", "b."))
    empty.touch()
    os.utime(empty, (0, 0))
    again = start("run", "scene:?size=160x120", "--max-frames", 3, "--record", "b.mp4")
    assert again.await_end() == 0, again.said
    assert "unfinished" not in again.said  # its writer is alive
    assert not empty.exists()
    killed.kill()
    again = start("run", "scene:?size=160x120", "--max-frames", 3, "--record", "b.mp4")
    assert again.await_end() == 0, again.said
    assert (
        f"1 unfinished recordings of runs that were killed are in its folder, such as {left}"
        in (again.said)
    )
    assert left.exists()


def test_rests_of_killed_writers_of_small_files_are_removed(tmp_path):
    path = tmp_path / "a.json"
    alive, dead = PartialFile(path), PartialFile(path)
    for partial in (alive, dead):
        partial.write(b"{")
    dead.close()  # as the kernel does for a killed process
    assert abandoned_files(path) == [dead.path]
    write_stats(path, {})
    assert not dead.path.exists()
    assert alive.path.exists()
    alive.publish()
    assert path.read_bytes() == b"{"


def test_an_orderly_end_leaves_only_what_was_asked_for(start, tmp_path):
    address = f"zmq+ipc://{tmp_path}/camera"
    run = start("run", "scene:?size=160x120", *RECORDED, "--publish", address)
    wait_for(lambda: list(tmp_path.glob(".*.part.mp4")) or not run.is_alive, "recording")
    assert run.end() == 0, run.said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.jsonl", "a.mp4"]


def test_a_lock_file_is_held_by_one_at_a_time_and_removed(tmp_path):
    path, inside, most = tmp_path / ".lock", [], []

    def work() -> None:
        for _ in range(100):
            with exclusive(path, lambda: None):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert most == [1] * 400
    assert not path.exists()
