"""Memory, disk and file descriptors that run out under the real commands, and a home read-only.

Small file systems stand in for full ones, mounted where only the command and its children see them.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import time

import cv2
import pytest

from pipeline.transport import Subscriber
from pipeline.transport.shm import ring_file

from .processes import NICE, ROOT, Command, last_lines, wait_for

MEBI = 1 << 20
SCENE = "scene:?size=640x360"  # 0.7 MB raw, 5.5 MB the ring


def privately(script):
    """The prefix that runs a command in a mount namespace of its own, set up by a script."""
    prefix = ["unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh"]
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare of util-linux")
    if done.returncode:
        pytest.skip(f"needs mounts of its own (root): {done.stderr.strip()}")
    return prefix


def inside(command, *arguments):
    """Run a program in the mount namespace of a command."""
    subprocess.run(
        ["nsenter", "-m", "-t", str(command.process.pid), *map(str, arguments)],
        check=False,
        capture_output=True,
        timeout=60,
    )


def fill(command, folder, mebis=4096):
    inside(command, "dd", "if=/dev/zero", f"of={folder}/filler", "bs=64K", f"count={mebis * 16}")


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def one(*arguments, **options):
            command = Command(*arguments, folder=tmp_path, **options)
            stack.callback(command.kill)
            return command

        yield one


def await_failure(command):
    """The single error line of a process that has ended by itself."""
    status = command.await_end()
    assert "Traceback" not in command.said
    errors = [line for line in command.lines if line.startswith("vision: error:")]
    assert (status, len(errors)) == (1, 1), command.said
    return errors[0]


needs_shm = pytest.mark.skipif(
    not ring_file.is_available(), reason="shared memory needs Linux with /dev/shm"
)


@needs_shm
@pytest.mark.parametrize("payload", ["shm", "auto"])
def test_a_full_shm_is_an_error_with_the_sizes_or_raw_pixels(start, address, payload):
    prefix = privately("mount -t tmpfs -o size=4m none /dev/shm")
    with Subscriber(address) as subscriber:
        camera = start(
            *("camera", SCENE, "--publish", address, "--payload", payload), prefix=prefix
        )
        if payload == "shm":
            error = await_failure(camera)
            assert "MiB are needed and /dev/shm has 4.0 MiB free of 4.0" in error
            return
        received = wait_for(lambda: subscriber.receive(0.1), "a frame")
        assert received.header.kind == "raw"
        assert camera.end() == 0
        assert camera.said.count("sending raw pixels instead") == 1


@needs_shm
def test_a_shm_that_others_fill_later_does_no_harm(start, address, tmp_path):
    shown = tmp_path / "shown.jsonl"
    prefix = privately("mount -t tmpfs -o size=16m none /dev/shm")
    camera = start("camera", SCENE, "--publish", address, "--payload", "shm", prefix=prefix)
    camera.await_ready()
    pid = camera.process.pid
    viewer = start(
        *("detect", "--subscribe", address, "--jsonl", shown),
        prefix=["nsenter", "-m", "-t", str(pid)],
    )
    wait_for(lambda: last_lines(shown), "a result")
    fill(camera, "/dev/shm")  # noqa: S108
    before = last_lines(shown)[-1]["seq"]
    wait_for(lambda: last_lines(shown)[-1]["seq"] > before + 10, "more results")
    assert (camera.end(), viewer.end()) == (0, 0)


@pytest.mark.parametrize("left", ["some", "nothing"])
def test_a_disk_that_fills_while_recording_ends_the_run_with_one_line(start, tmp_path, left):
    folder, shown = tmp_path / "disk", tmp_path / "shown.jsonl"
    folder.mkdir()
    prefix = privately(f"mount -t tmpfs -o size=40m none {folder}")
    run = start(
        *("run", "scene:?size=320x240", "--jsonl", shown, "--record", folder / "out.mp4"),
        *("--classifier", "none"),
        prefix=prefix,
    )
    wait_for(lambda: len(last_lines(shown)) > 10, "the first results")
    fill(run, folder, 30 if left == "some" else 4096)
    # The mounts go with the process, so the recording is looked at through its folder.
    disk = os.open(f"/proc/{run.process.pid}/root{folder}", os.O_RDONLY)
    try:
        assert re.search("is the disk full|disk is full", await_failure(run))
        names = os.listdir(disk)
        if left == "some":  # enough to end the recording so that it can be read
            assert "out.mp4" in names
            video = cv2.VideoCapture(f"/proc/{os.getpid()}/fd/{disk}/out.mp4", cv2.CAP_FFMPEG)
            assert video.read()[0]
            video.release()
        assert not [name for name in names if name.startswith(".")]
    finally:
        os.close(disk)


def test_a_home_and_an_installation_that_cannot_be_written_are_enough(start, tmp_path):
    home, shown = tmp_path / "home", tmp_path / "shown.jsonl"
    home.mkdir()
    prefix = privately(
        f"mount -t tmpfs -o ro none {home}; mount --bind {ROOT} {ROOT}; "
        f"mount -o remount,ro,bind {ROOT}"
    )
    env = {"HOME": str(home), "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    run = start(
        *("run", "scene:?size=320x240", "--max-frames", 3, "--jsonl", shown),
        prefix=prefix,
        env=env,
    )
    assert run.await_end(300) == 0, run.said
    assert len(last_lines(shown)) == 3
    assert list(home.iterdir()) == []


LIMITED = "import resource, os, sys; n = int(sys.argv[1])" + (
    "; resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); os.execv(sys.executable, sys.argv[2:])"
)


@pytest.mark.parametrize("command", ["run", "camera"])
def test_too_few_file_descriptors_are_one_line_and_never_an_abort(address, tmp_path, command):
    processes = {}
    for limit in (6, 10, 14, 18, 22):
        arguments = [command, "scene:?size=320x240", "--max-frames", "3", "--publish"]
        processes[limit] = subprocess.Popen(
            [
                *(sys.executable, "-c", LIMITED, str(limit), sys.executable, "-m", "pipeline.cli"),
                *(*arguments, f"{address}-{limit}"),
            ],
            cwd=tmp_path,
            env={**os.environ, **NICE},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
    statuses = []
    for limit, process in processes.items():
        said = process.communicate(timeout=300)[1]
        statuses.append(process.returncode)
        assert process.returncode in {0, 1, 2}, (limit, said)
        assert "Traceback" not in said, (limit, said)
        if process.returncode:
            assert said.count("vision: error:") == 1, (limit, said)
            assert re.search("Too many open files|too few file desc", said), (limit, said)
    assert 1 in statuses


@contextlib.contextmanager
def crowd(camera, address, left):
    """A subscriber, and twenty further ones at a camera that may open `left` more files.

    Each connects once the camera sends again.
    """
    pid = camera.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Subscriber(address))
        wait_for(lambda: first.receive(0.1), "a frame")
        limit = len(os.listdir(f"/proc/{pid}/fd")) + left
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        others = []
        for _ in range(20):
            others.append(stack.enter_context(Subscriber(address)))
            since_ns = time.time_ns()
            wait_for(lambda since_ns=since_ns: goes_on(camera, first, since_ns), "a newer frame")
        yield first, others
        if camera.is_alive:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            for other in others:
                wait_for(lambda other=other: other.receive(0.1), "a frame for a newcomer")


def goes_on(camera, subscriber, since_ns):
    """Whether the camera has ended, or sent a frame captured after `since_ns`."""
    received = subscriber.receive(0.1)
    newer = received is not None and received.header.stamp_ns > since_ns
    return newer or not camera.is_alive


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_connections_are_refused_while_few_file_descriptors_are_left(start, address, kind):
    place = address if kind == "ipc" else "zmq+tcp://127.0.0.1:0"
    camera = start("camera", SCENE, "--publish", place, "--payload", "raw")
    camera.await_ready()
    place = camera.said.split("publishing at ")[1].split()[0]
    with crowd(camera, place, 26) as (first, others):
        for _ in range(10):
            assert first.receive(20.0) is not None, camera.said
        assert sum(other.receive(0.05) is not None for other in others) < len(others)
    assert camera.end() == 0, camera.said
    assert camera.said.count("too few file descriptors are left; raise the limit") == 1
