"""More connections than a process can hold, and connections that never shake hands."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.process.memory import private_bytes
from pipeline.transport import Publisher, Security, Subscriber
from pipeline.transport.zmq.keys import load_key_pair, load_public_key, make_keys
from pipeline.transport.zmq.peers import connections
from pipeline.types import Frame
from tests.faults.processes import Command, wait_for

RAW_PEER = Path(__file__).with_name("raw_peer.py")
SCENE = "scene:?fps=30&size=64x48"
FILES = 1024


@contextlib.contextmanager
def raw_peer(*arguments):
    child = subprocess.Popen(
        [sys.executable, str(RAW_PEER), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def camera(tmp_path, address, *options, files=FILES):
    """A camera's process that may open `files` files, or so many more than it has open."""
    command = Command(
        "camera", SCENE, "--publish", address, "--payload", "raw", *options, folder=tmp_path
    )
    try:
        command.await_ready()
        pid = command.process.pid
        limit = files if files >= FILES else len(os.listdir(f"/proc/{pid}/fd")) + files
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, FILES))
        yield command, "zmq+" + command.said.split("publishing at zmq+")[1].split()[0]
        assert command.is_alive, command.said
        assert command.end() == 0, command.said
    finally:
        command.process.kill()
        command.process.wait()


def comes(subscriber, frames=5):
    """Wait for new frames."""
    since_ns = time.time_ns()
    for _ in range(frames):
        wait_for(lambda: is_new(subscriber.receive(0.1), since_ns), "a new frame")
    return True


def is_new(received, since_ns):
    return received is not None and received.header.stamp_ns > since_ns


def address_of(kind, tmp_path):
    names = {"ipc": f"zmq+ipc://{tmp_path}/socket", "abstract": f"zmq+ipc://@{tmp_path}"}
    return names.get(kind, "zmq+tcp://127.0.0.1:0")


@pytest.mark.parametrize("kind", ["ipc", "abstract", "tcp"])
def test_more_connections_than_files_leave_those_that_exist(tmp_path, kind):
    options = ["--insecure"] if kind == "abstract" else []
    with camera(tmp_path, address_of(kind, tmp_path), *options) as (command, address):
        with Subscriber(address, security=Security(insecure=True)) as early:
            comes(early)
            with raw_peer("connect", address.removeprefix("zmq+"), FILES + 100) as many:
                many.stdout.readline()
                comes(early)
                assert 128 <= len(os.listdir(f"/proc/{command.process.pid}/fd")) < 256
                if kind != "tcp":  # over TCP all processes of this machine are one source
                    with Subscriber(address, security=Security(insecure=True)) as late:
                        comes(late)
            with Subscriber(address, security=Security(insecure=True)) as later:
                comes(later)
        assert "half of all connections" in command.said


def test_connections_that_never_shake_hands_keep_no_known_key_out(tmp_path):
    for name in ("robot", "viewer"):
        make_keys(tmp_path, name)
    keys = ["--key", tmp_path / "robot.key_secret", "--peer", tmp_path / "viewer.key"]
    security = Security(
        load_key_pair(tmp_path / "viewer.key_secret"), (load_public_key(tmp_path / "robot.key"),)
    )
    with (
        camera(tmp_path, "zmq+tcp://127.0.0.1:0", *keys, files=50) as (_, address),
        raw_peer("never finish", address.removeprefix("zmq+"), 200) as many,
    ):
        many.stdout.readline()
        with Subscriber(address, security=security) as known:
            comes(known)


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_a_message_without_an_end_takes_little_memory(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(connections, "MAX_GROWTH", 16 << 20)
    with Publisher(address_of(kind, tmp_path)) as sender, contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Subscriber(f"zmq+{sender.endpoint}"))
        wait_for(lambda: sender.wants_frames("front"), "a subscription")
        before_bytes = private_bytes()
        endless = stack.enter_context(raw_peer("endless", sender.endpoint, 20))
        assert endless.stdout.readline() == "sending\n"
        told = []
        reader = threading.Thread(target=lambda: told.append(endless.stdout.readline()))
        reader.start()
        image = np.zeros((48, 64, 3), np.uint8)
        wait_for(lambda: sender.send_frame(Frame(image, 1, 0, "front")) and told, "its end")
        reader.join()
        assert told == ["closed\n"]
        assert private_bytes() - before_bytes < 100 << 20
        numbers = itertools.count(1)

        def receives_a_new_frame():  # what was sent meanwhile fills the queues, and is gone
            sender.send_frame(Frame(image, 1, next(numbers), "front"))
            message = receiver.receive(0.05)
            return message is not None and message.header.seq > 0

        wait_for(receives_a_new_frame, "a new frame at the other subscriber")


def test_silent_connections_keep_no_new_publisher_out(tmp_path):
    """The same at a receiver that others connect to."""
    address = f"zmq+ipc://{tmp_path}/socket"
    with (
        Subscriber(f"{address}?bind") as receiver,
        raw_peer("never finish", address.removeprefix("zmq+"), 200) as many,
    ):
        many.stdout.readline()
        command = Command(
            "camera", SCENE, "--publish", f"{address}?connect", "--payload", "raw", folder=tmp_path
        )
        try:
            comes(receiver)
            assert command.end() == 0, command.said
        finally:
            command.process.kill()
            command.process.wait()
