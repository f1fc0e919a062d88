"""Real processes that start in any order, are killed, stopped and restarted."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.transport import Subscriber
from pipeline.transport.shm import ring_file

ROOT = Path(__file__).resolve().parents[3]
PEER = Path(__file__).with_name("peer.py")
WAIT_S = 30.0
FPS = 30
FRESH_MS = 500  # generous, as many processes share few cores; history would be seconds old
KINDS = ["raw", "jpeg"] + (["shm"] if ring_file.is_available() else [])


class Peer:
    """Another process; a thread reads its output, so that a full pipe does not block it."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._said = queue.Queue()
        self._frames = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.first = self.next()

    def _listen(self):
        for line in self.process.stdout:
            said = json.loads(line)
            self._frames += is_frame(said)
            self._said.put(said)

    def frames(self):
        """The number of frames that it reported, once it has ended."""
        self._listener.join(WAIT_S)
        return self._frames

    def next(self, wait_s=WAIT_S):
        return self._said.get(timeout=wait_s)

    def forget(self):
        """Discard its output so far."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._said.get_nowait()

    def until(self, condition):
        """Its first further line that meets the condition."""
        deadline = time.monotonic() + WAIT_S
        while not condition(said := self.next()):
            assert time.monotonic() < deadline
        return said

    def signal(self, number):
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(WAIT_S)

    def send_last(self, receiver):
        """Send single frames until the receiver has the newest, so that it has counted all losses.

        Their numbers begin at a million.
        """
        for seq in range(10**6, 10**6 + 20):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            with contextlib.suppress(queue.Empty):
                while True:
                    if receiver.next(1.5).get("seq") == seq:
                        return
        raise AssertionError("the last frame did not come")

    def end(self):
        """Ask it to end; returns its counts."""
        self.process.stdin.close()
        return self.until(lambda said: "counts" in said)


@pytest.fixture
def start():
    peers = []

    def one(*arguments):
        peers.append(Peer(*arguments))
        return peers[-1]

    yield one
    for peer in peers:
        peer.process.send_signal(signal.SIGCONT)
        peer.process.kill()
        peer.process.wait()
        peer.process.stdout.close()
        with contextlib.suppress(OSError):
            peer.process.stdin.close()
    if ring_file.is_available():
        ring_file.remove_leftovers()


def is_frame(said):
    return "seq" in said


def is_fresh(said):
    return is_frame(said) and said["age_ms"] < FRESH_MS


def sums(count):
    fates = ("given", "superseded", "gone", "invalid", "repeated", "unread")
    return sum(count.get(fate, 0) for fate in fates)


def our_rings(pids):
    return [
        name
        for name in os.listdir(ring_file.FOLDER)
        if name.startswith(tuple(f"{ring_file.PREFIX}{pid}-" for pid in pids))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_add_up_on_both_sides(start, address, kind):
    receiver = start("receive", address)
    sender = start("publish", address, kind, FPS, "front")
    first = receiver.until(is_frame)
    assert first["is_whole"]
    last = receiver.until(lambda said: is_frame(said) and said["seq"] > first["seq"] + 30)
    assert last["is_whole"]
    sender.send_last(receiver)
    sent = sender.end()["counts"]["frame/front"]
    received = receiver.end()["counts"]["frame/front"]
    assert received["received"] + received["lost"] == sent["sent"]
    assert sums(received) == received["received"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_publisher_is_replaced_by_the_next(start, address, kind, await_true):
    receiver = start("receive", address)
    pids = []
    for _ in range(3):
        sender = start("publish", address, kind, FPS, "front")
        pids.append(sender.process.pid)
        receiver.forget()
        said = receiver.until(is_fresh)
        assert said["is_whole"]
        sender.signal(signal.SIGKILL)
    if kind == "shm":
        start("publish", address, kind, FPS, "front")
        receiver.until(is_fresh)
        await_true(lambda: our_rings(pids) == [])


def test_killed_subscribers_delay_no_other(start, address):
    sender = start("publish", address, KINDS[-1], FPS, "front")
    for _ in range(3):
        receiver = start("receive", address)
        receiver.until(is_fresh)
        receiver.signal(signal.SIGKILL)
    start("receive", address).until(is_fresh)
    assert sender.end()["slowest_ms"] < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_subscriber_slows_no_other_and_continues_with_the_newest(start, address, kind):
    sender = start("publish", address, kind, FPS, "front")
    stopped, other = start("receive", address), start("receive", address)
    stopped.until(is_fresh)
    stopped.signal(signal.SIGSTOP)
    stopped.forget()
    other.forget()
    first = other.until(is_frame)["seq"]
    started = time.monotonic()
    while (said := other.until(is_frame))["seq"] < first + 2 * FPS:
        assert said["is_whole"]
    assert time.monotonic() - started < 15  # it takes 2 s on an idle machine
    stopped.signal(signal.SIGCONT)
    resumed = [stopped.until(is_frame)]
    # It may have been stopped while it processed a frame, and may have been delayed again.
    while not is_fresh(resumed[-1]) and len(resumed) < 3:
        resumed.append(stopped.until(is_frame))
    assert is_fresh(resumed[-1]), resumed
    assert all(said["is_whole"] for said in resumed)
    assert sender.end()["slowest_ms"] < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_publisher_that_dies_while_its_subscriber_sleeps_is_replaced(start, address, kind):
    sender = start("publish", address, kind, FPS, "front")
    receiver = start("receive", address, 3)
    receiver.until(lambda said: "dozing" in said)
    time.sleep(0.5)  # so that the queue fills
    sender.signal(signal.SIGKILL)
    start("publish", address, kind, FPS, "front")
    assert receiver.until(is_fresh)["is_whole"]


def test_several_cameras_share_an_address(start, address):
    start("publish", address, "raw", FPS, "left", "right")
    receiver = start("receive", address)
    for camera in ("left", "right", "left", "right"):
        receiver.until(lambda said, camera=camera: is_fresh(said) and said["camera"] == camera)


def test_loopback_tcp_works_like_ipc(start):
    sender = start("publish", "zmq+tcp://127.0.0.1:0", "auto", FPS, "front")
    endpoint = f"zmq+{sender.first['endpoint']}/front"
    for _ in range(2):
        start("receive", endpoint).until(is_fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_member_of_a_group_loses_only_its_own_frame(start, address, kind):
    sender = start("publish", address, kind, FPS, "front")
    members = [start("member", address, "fleet", 0.1) for _ in range(3)]
    for member in members:
        member.until(is_fresh)
    members[0].signal(signal.SIGKILL)
    for member in members[1:]:
        member.forget()
        for _ in range(5):
            member.until(is_fresh)
    joined = start("member", address, "fleet", 0.1)
    joined.until(is_fresh)
    sent = sender.end()["counts"]["turn/fleet/frame/front"]["sent"]
    ended = [member.end()["counts"]["frame/front"] for member in [*members[1:], joined]]
    given = sum(count["given"] for count in ended)
    assert sum(count["lost"] for count in ended) == 0
    # The frame of the killed member, and for each other member the one in flight at the end.
    assert 0 <= sent - given - members[0].frames() <= 1 + len(ended)


CRAMPED = """
import os, resource, sys
from pipeline.errors import RunError
from pipeline.transport import Publisher, Subscriber
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
files = []
try:
    while True:
        files.append(os.dup(1))
except OSError:
    for _ in range(int(sys.argv[2])):
        os.close(files.pop())
for end in (Publisher, Subscriber):
    try:
        end(sys.argv[1])
    except RunError as error:
        print(error)
"""


@pytest.mark.parametrize("left", [0, 3, 8])
def test_too_few_file_descriptors_are_an_error_and_no_abort(address, left):
    done = subprocess.run(
        [sys.executable, "-c", CRAMPED, address, str(left)],
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT,
        timeout=WAIT_S,
    )
    assert done.stdout.count("Too many open files; raise the limit (ulimit -n)") == 2


@pytest.mark.skipif(not ring_file.is_available(), reason="shared memory needs Linux")
def test_a_frame_outlives_its_killed_publisher(start, address):
    sender = start("publish", address, "shm", FPS, "front")
    with Subscriber(address) as subscriber:
        frame = subscriber.receive(WAIT_S).item
        sender.signal(signal.SIGKILL)
        start("publish", address, "shm", FPS, "front")
        after = subscriber.receive(WAIT_S)
        assert after is not None
        assert (frame.image == frame.image[0, 0, 0]).all()
