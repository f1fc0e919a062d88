"""Camera, detector and viewer as separate processes: every message is counted, and all stop."""

from __future__ import annotations

import json
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.transport.shm.ring_file import is_available

ROOT = Path(__file__).resolve().parents[2]

SCENE = "scene:?size=320x240&fps=15"
PROMPT_S = 2.0  # how long a stop may take, times `crowding` on a busy machine
WAIT_S = 120.0
LINES = 8


@pytest.fixture
def address(tmp_path):
    """Returns addresses that only this test uses, by name."""
    return lambda name: f"zmq+ipc://{tmp_path}/{name}"


def lines_from(process, count: int) -> list[dict]:
    return [json.loads(process.stdout.readline()) for _ in range(count)]


@pytest.fixture
def stop(crowding):
    """Ends a process as a user does; returns its standard error."""

    def end(process, number=signal.SIGTERM) -> str:
        process.send_signal(number)
        sent = time.monotonic()
        errors = process.communicate(timeout=60)[1].decode()
        assert time.monotonic() - sent < PROMPT_S * crowding()
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        return errors

    return end


def count_lines(file) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def stats_of(folder, name: str) -> dict:
    figures = json.loads((folder / f"{name}.json").read_text())
    assert figures["captured"] == sum(figures[what] for what in ("processed", "dropped", "failed"))
    return figures


def arrived(count: dict) -> int:
    """The messages that a receiver counts as sent; each received one has one further count."""
    fates = ("given", "superseded", "gone", "invalid", "repeated", "unread")
    assert count["received"] == sum(count.get(fate, 0) for fate in fates)
    return count["received"] + count["lost"]


def test_every_hop_counts_the_same_on_both_sides_in_any_start_order(start, stop, address, tmp_path):
    camera, found = address("camera"), address("found")
    viewer = start("view", "--subscribe", found, "--jsonl", "-", "--stats", "view.json")
    detect = start("detect", "--subscribe", camera, "--publish", found, "--stats", "detect.json")
    source = start("camera", SCENE, "--publish", camera, "--stats", "camera.json")
    seen = lines_from(viewer, LINES)
    # The counts of the first viewer are compared, so it must have subscribed first.
    recorder = start("view", "--subscribe", found, "--jsonl", "-", "--record", "seen.mp4")
    for lines in (seen, lines_from(recorder, LINES)):
        assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
        assert all(0 <= line["age_ms"] < 10_000 for line in lines)
    while not any(line["objects"] for line in seen):  # frames between two photographs have none
        seen = lines_from(viewer, 1)
    # The source ends first: each publisher tells its subscribers how many messages it sent.
    for process, number in zip(
        [source, detect, viewer, recorder], [signal.SIGINT, signal.SIGTERM] * 2, strict=True
    ):
        stop(process, number)
    figures = {name: stats_of(tmp_path, name) for name in ("camera", "detect", "view")}
    frames, results = "frame/scene", "result/scene"
    for sender, receiver, topic in (("camera", "detect", frames), ("detect", "view", results)):
        sent = figures[sender]["sent"][topic]["sent"]
        assert arrived(figures[receiver]["received"][topic]) == sent
    assert frames not in figures["view"]["received"]  # no output needs them
    assert figures["view"]["age_ms"]["error"] == 0
    assert cv2.VideoCapture(str(tmp_path / "seen.mp4")).read()[0]


def test_detectors_of_a_group_share_the_frames_and_the_viewer_reorders_the_results(
    start, stop, address, tmp_path
):
    camera, members = address("camera"), ("one", "two")
    crew = [
        start(
            *("detect", "--subscribe", camera, "--group", "crew", "--publish", address(name)),
            *("--stats", f"{name}.json", "--classifier", "none", "--threads", 1),
            *("--jsonl", f"{name}.jsonl"),
        )
        for name in members
    ]
    addresses = [part for name in members for part in ("--subscribe", address(name))]
    viewer = start("view", *addresses, "--jsonl", "-")
    source = start("camera", SCENE, "--publish", camera, "--stats", "camera.json")
    numbers, deadline = [], time.monotonic() + WAIT_S
    files = [tmp_path / f"{name}.jsonl" for name in members]
    while len(numbers) < 30 or not all(map(count_lines, files)):
        numbers += [line["seq"] for line in lines_from(viewer, 1)]
        assert time.monotonic() < deadline
    assert numbers == sorted(set(numbers))
    stop(source)
    sent = stats_of(tmp_path, "camera")["sent"]["turn/crew/frame/scene"]["sent"]
    for process in (*crew, viewer):
        stop(process)
    received = [stats_of(tmp_path, name)["received"]["frame/scene"] for name in members]
    assert sent == sum(map(arrived, received))
    assert min(count["given"] for count in received) > 0


def test_two_cameras_connect_to_one_detector(start, stop, address):
    meeting = address("meeting")
    detect = start(
        *("detect", "--subscribe", f"{meeting}?bind", "--jsonl", "-", "--classifier", "none")
    )
    for name in ("left", "right"):
        start("camera", SCENE, "--camera", name, "--publish", f"{meeting}?connect")
    counts = {"left": 0, "right": 0}
    while not min(counts.values()):
        counts[lines_from(detect, 1)[0]["camera"]] += 1
    counts = dict.fromkeys(counts, 0)  # both have come
    while min(counts.values()) < LINES:
        counts[lines_from(detect, 1)[0]["camera"]] += 1
    assert sum(counts.values()) < 20 * LINES
    stop(detect)


def test_a_viewer_shows_the_frames_of_a_camera_without_a_detector(start, address, tmp_path):
    start("camera", SCENE, "--publish", address("camera"))
    viewer = start(
        *("view", "--subscribe", address("camera"), "--record", "seen.mp4", "--max-frames", LINES)
    )
    errors = viewer.communicate(timeout=WAIT_S)[1].decode()
    assert viewer.returncode == 0, errors
    assert cv2.VideoCapture(str(tmp_path / "seen.mp4")).read()[0]


def test_the_last_result_of_a_run_arrives(start, stop, address):
    viewer = start("view", "--subscribe", address("found"), "--jsonl", "-", "--every-frame")
    run = start(
        *("run", "scene:?size=320x240&fps=0&frames=20", "--classifier", "none"),
        *("--publish", address("found"), "--await-subscriber"),
    )
    assert run.wait(timeout=WAIT_S) == 0
    seen = {}
    while seen.get("seq") != 19:
        (seen,) = lines_from(viewer, 1)
    stop(viewer)


def test_known_keys_are_accepted_and_others_refused_and_logged(vision, start, stop, tmp_path):
    for name in ("drone", "ground", "stranger"):
        outcome = vision("keys", name, "--folder", tmp_path)
        assert outcome.code == 0
        assert "--peer" in outcome.out
        secret = tmp_path / f"{name}.key_secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    drone = ("--key", "drone.key_secret", "--peer", "ground.key")
    source = start("camera", SCENE, "--publish", "zmq+tcp://*:0", *drone)
    while b"publishing at" not in (line := source.stderr.readline()):
        assert line
    port = line.split(b"publishing at ")[1].split()[0].decode().rpartition(":")[2]
    there = f"zmq+tcp://127.0.0.1:{port}"

    def come(name):
        keys = ("--key", f"{name}.key_secret", "--server", "drone.key")
        return start(
            *("detect", "--subscribe", there, "--classifier", "none", *keys, "--jsonl", "-")
        )

    ground, stranger = come("ground"), come("stranger")
    lines_from(ground, LINES)
    while b"is unknown" not in (line := source.stderr.readline()):
        assert line
    assert b"does the publisher know our key" in stranger.stderr.readline()
    for process in (source, ground, stranger):
        stop(process)
    assert stranger.stdout.closed or not stranger.stdout.read()


@pytest.mark.parametrize(
    "command",
    [
        ("camera", "scene:", "--publish"),
        ("run", "scene:", "--publish"),
        ("detect", "--subscribe"),
        ("view", "--jsonl", "-", "--subscribe"),
    ],
    ids=["camera", "run", "detect", "view"],
)
def test_addresses_off_the_machine_require_keys(vision, command):
    outcome = vision(*command, "zmq+tcp://192.0.2.7:5555")
    assert outcome.code == 2
    assert "vision keys" in outcome.err
    assert "--insecure" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "command",
    [
        ("run", "scene:", "--publish", "zmq+tcp://192.0.2.7:5555"),
        ("run", "zmq+tcp://192.0.2.7:5555"),
        ("detect", "--subscribe", "zmq+tcp://192.0.2.7:5555"),
        ("detect", "--subscribe", "zmq+ipc:///tmp/x", "--publish", "zmq+tcp://192.0.2.7:5555"),
    ],
    ids=["run-publish", "run-source", "detect-subscribe", "detect-publish"],
)
def test_addresses_are_checked_before_the_models_are_loaded(vision, command):
    outcome = vision(*command, "--detector", "not-there.onnx")
    assert outcome.code == 2
    assert "vision keys" in outcome.err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("--key", "me.key_secret"), "--peer FILE.key"),
        (("--peer", "me.key"), "--key NAME.key_secret"),
    ],
    ids=["no-peer", "no-key"],
)
def test_a_missing_key_is_named(vision, tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(tmp_path)
    vision("keys", "me")
    outcome = vision("camera", "scene:", "--publish", "zmq+tcp://127.0.0.1:0", *keys)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("camera", "scene:"), "--publish ADDRESS is missing"),
        (("camera", "--publish", "zmq+ipc:///tmp/x"), "SOURCE is missing"),
        (("detect",), "--subscribe ADDRESS is missing"),
        (("view",), "--subscribe ADDRESS is missing"),
        (("view", "--subscribe", "tcp://here"), "zmq+tcp://HOST:PORT"),
        (("detect", "--subscribe", "zmq+ipc:///tmp/x", "--group", "a b"), "group 'a b'"),
        (("run", "scene:", "--publish", "zmq+ipc:///tmp/x", "--payload", "gif"), "auto, raw, jpeg"),
    ],
    ids=["publish", "source", "subscribe", "view", "address", "group", "payload"],
)
def test_a_missing_or_invalid_option_is_named(vision, command, message):
    outcome = vision(*command)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(not is_available(), reason="needs /dev/shm")
def test_the_next_publisher_removes_the_shared_memory_of_a_killed_one(vision, address):
    made = "import os; from pipeline.transport.shm import ring, ring_file\n"
    made += "name = ring.RingWriter(4096).ring\n"
    made += "print(ring_file.path_of(name), flush=True); os._exit(9)"
    left = subprocess.run(
        [sys.executable, "-c", made], capture_output=True, cwd=ROOT, check=False, text=True
    ).stdout.strip()
    assert "vision-" in left
    outcome = vision("camera", SCENE, "--publish", address("camera"), "--max-frames", 1)
    assert outcome.code == 0, outcome.err
    assert not Path(left).exists()


def test_statistics_have_the_reconnects_and_gaps_of_a_source(vision, address, tmp_path):
    outcome = vision(
        *("camera", "scene:?size=320x240&die_after=0.3s", "--reconnect", "--duration", "2.5"),
        *("--publish", address("camera"), "--stats", tmp_path / "camera.json"),
    )
    assert outcome.code == 0, outcome.err
    figures = stats_of(tmp_path, "camera")
    assert figures["reconnects"] >= 1
    assert figures["gap_s"] > 0
    assert figures["sent"]["frame/scene"] == {"unwanted": figures["processed"]}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("camera", "scene:", "--publish", "zmq+ipc:///tmp/x?camera=left"), "--camera NAME"),
        (("detect", "--subscribe", "zmq+ipc:///tmp/x", "--publish", "zmq+ipc:///tmp/x"), "another"),
        (("camera", "zmq+ipc:///tmp/x", "--publish", "zmq+ipc:///tmp/x?connect"), "another"),
    ],
    ids=["camera", "itself", "source"],
)
def test_publish_refuses_the_address_of_a_source_or_one_camera(vision, command, message):
    outcome = vision(*command)
    assert outcome.code == 2
    assert "--publish zmq+ipc:///tmp/x" in outcome.err
    assert message in outcome.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("scene:", "--quality", "50", "--await-subscriber"), "--quality, --await-subscriber"),
        (("scene:", "--server", "a.key", "--insecure"), "--insecure"),
    ],
    ids=["publishing", "receiving"],
)
def test_options_without_effect_are_warned_of(vision, command, message):
    outcome = vision("run", *command, "--classifier", "not-there.onnx", "--yes")
    assert f"warning: {message}: without effect" in outcome.err


def test_settings_of_other_commands_in_a_file_are_not_warned_of(vision, tmp_path):
    settings = tmp_path / "all.yaml"
    settings.write_text("quality: 50\npublish:\nfps: 5\n")
    outcome = vision("view", "--jsonl", "-", "--config", settings, "--subscribe", "tcp://here")
    assert "without effect" not in outcome.err


@pytest.mark.parametrize("command", ["camera", "view"])
def test_examples_over_a_network_in_help_have_keys(vision, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    for name in ("drone", "ground"):
        vision("keys", name)
    shown = vision(command, "--help").out.replace("\\\n", "")
    lines = [line.strip() for line in shown.splitlines()]
    (example,) = [line for line in lines if line.startswith("vision") and "zmq+tcp" in line]
    outcome = vision(*shlex.split(example.replace("*:5555", "*:0"))[1:], "--max-frames", 1)
    assert "key" not in outcome.err  # errors about the camera or screen may remain


def test_commands_that_share_a_settings_file_use_their_own_settings(vision, address, tmp_path):
    settings = tmp_path / "all.yaml"
    settings.write_text(f"publish: {address('out')}\nsubscribe: ['{address('in')}']\nretry: true\n")
    outcome = vision("view", "--jsonl", "-", "--config", settings, "--duration", 0.2)
    assert outcome.code == 0
    assert "all.yaml: not for this command: retry, publish" in outcome.err
    assert "publishing at" not in outcome.err
    assert "without effect" not in outcome.err


def test_the_rate_that_images_are_played_at_is_not_said_to_be_ignored(vision, address, tmp_path):
    for number in range(3):
        cv2.imwrite(f"{tmp_path}/{number}.png", np.zeros((8, 8, 3), np.uint8))
    outcome = vision("camera", f"{tmp_path}/*.png", "--fps", 100, "--publish", address("camera"))
    assert outcome.code == 0
    assert "3 frames" in outcome.err
    assert "ignored" not in outcome.err
