"""Addresses between processes, and which of them need keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.transport import Publisher, Subscriber
from pipeline.transport.access.socket_files import free_path
from pipeline.transport.address import is_address, parse_address
from pipeline.transport.zmq.keys import KeyPair, Security, check_policy
from pipeline.types import Frame

ROOT = Path(__file__).resolve().parents[2]
KEYS = Security(KeyPair(b"p", b"s"), (b"q",))


@pytest.mark.parametrize(
    ("text", "endpoint", "camera", "bind", "is_local"),
    [
        ("zmq+tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555", None, None, True),
        ("zmq+tcp://localhost:5555/front", "tcp://localhost:5555", "front", None, True),
        ("zmq+tcp://[::1]:5555/", "tcp://[::1]:5555", None, None, True),
        ("zmq+tcp://127.8.9.1:1", "tcp://127.8.9.1:1", None, None, True),
        ("zmq+tcp://10.0.0.7:5555/left/rear", "tcp://10.0.0.7:5555", "left/rear", None, False),
        ("zmq+tcp://*:0?bind", "tcp://*:0", None, True, False),
        ("zmq+tcp://drone.local:5555?connect", "tcp://drone.local:5555", None, False, False),
        ("zmq+tcp://0.0.0.0:5555", "tcp://0.0.0.0:5555", None, None, False),
        ("zmq+tcp://[fe80::1]:5555", "tcp://[fe80::1]:5555", None, None, False),
        ("zmq+ipc:///run/cam.ipc", "ipc:///run/cam.ipc", None, None, True),
        ("zmq+ipc:///run/cam.ipc?camera=front", "ipc:///run/cam.ipc", "front", None, True),
        ("zmq+ipc://@cam", "ipc://@cam", None, None, True),
    ],
    ids=lambda value: str(value) if isinstance(value, str) and "zmq" in value else "",
)
def test_an_address_is_parsed(text, endpoint, camera, bind, is_local):
    address = parse_address(text)
    assert (address.endpoint, address.camera, address.bind) == (endpoint, camera, bind)
    assert address.is_local == is_local
    assert is_address(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tcp://127.0.0.1:5555", "expected zmq"),
        ("zmq+tcp://127.0.0.1", "no port"),
        ("zmq+tcp://:5555", "no host"),
        ("zmq+tcp://host:99999", "Port out of range"),
        ("zmq+tcp://host:port", "expected zmq"),
        ("zmq+tcp://me:secret@host:5555", "expected zmq"),
        ("zmq+tcp://host:5555/9lives", "'9lives' cannot be a camera"),
        ("zmq+tcp://host:5555/../x", "cannot be a camera"),
        ("zmq+tcp://host:5555?topic=x", "unknown setting 'topic'"),
        ("zmq+tcp://host:5555?bind=yes", "unknown setting 'bind'"),
        ("zmq+ipc://run/cam.ipc", "neither a name nor an absolute path"),
        ("zmq+ipc://../cam", "neither a name nor an absolute path"),
        ("zmq+ipc://", "neither a name nor an absolute path"),
        ("zmq+ipc:///" + "x" * 200, "longer than"),
    ],
    ids=lambda value: value[:40],
)
def test_an_invalid_address_is_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text):
    for prefix in ("zmq+tcp://", "zmq+ipc://", ""):
        try:
            parse_address(prefix + text)
        except ConfigError as error:
            assert "\n" not in str(error).replace(text, "")  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    ("text", "security", "allowed"),
    [
        ("zmq+tcp://127.0.0.1:1", Security(), True),
        ("zmq+ipc:///x", Security(), True),
        ("zmq+tcp://10.0.0.7:1", Security(), False),
        ("zmq+tcp://*:1", Security(), False),
        ("zmq+tcp://drone:1", Security(), False),
        ("zmq+tcp://*:1", Security(insecure=True), True),
        ("zmq+tcp://*:1", KEYS, True),
        ("zmq+tcp://127.0.0.1:1", Security(peers=(b"q",)), False),
    ],
    ids=["loopback", "ipc", "lan", "all", "name", "insecure", "keys", "peers only"],
)
def test_addresses_off_the_machine_need_keys_or_insecure(text, security, allowed):
    address = parse_address(text)
    if allowed:
        check_policy(address, security)
    else:
        with pytest.raises(ConfigError, match="vision keys"):
            check_policy(address, security)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("zmq+ipc:///run/cam#1", "contains '#'"),
        ("zmq+ipc:///run/cam?bind&connect", "only once"),
        ("zmq+tcp://host:5555/left?camera=right", "names two cameras"),
    ],
    ids=["fragment", "both", "two cameras"],
)
def test_no_part_of_an_address_is_ignored(text, why):
    with pytest.raises(ConfigError, match=why):
        parse_address(text)


@pytest.mark.parametrize("where", ["*:5555", "127.0.0.1:0"])
def test_an_address_without_host_or_port_can_only_be_bound(where):
    with pytest.raises(ConfigError, match="can only be bound"):
        Subscriber(f"zmq+tcp://{where}", security=Security(insecure=True))


def test_an_address_given_twice_is_opened_once(tmp_path, await_true):
    address = f"zmq+ipc://{tmp_path}/twice"
    addresses = [f"{address}?bind", f"{address}?bind&camera=front"]
    with Subscriber(addresses) as subscriber, Publisher(f"{address}?connect") as publisher:
        await_true(lambda: subscriber.receive(0.01) or publisher.wants_frames("front"))
        frame = Frame(np.zeros((4, 4, 3), np.uint8), 1, 0, "front")
        publisher.send_frame(frame)
        assert subscriber.receive(30.0) is not None


RACE = """
import sys, time
from pipeline.errors import ConfigError
from pipeline.transport import Publisher
print("ready", flush=True)
sys.stdin.readline()
try:
    publisher = Publisher(sys.argv[1])
    print("bound", flush=True)
    sys.stdin.readline()
except ConfigError as error:
    print(error, flush=True)
"""


def test_one_of_two_publishers_that_start_at_once_binds_a_path(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, f"zmq+ipc://{tmp_path}/race"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = [racer.stdout.readline() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert said.count("bound\n") == 1, said
    assert sum("is in use by another process" in line for line in said) == 2


def test_a_path_that_another_process_is_binding_is_in_use(tmp_path):
    path = f"{tmp_path}/busy"
    with (
        free_path(path, parse_address(f"zmq+ipc://{path}")),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        Publisher(f"zmq+ipc://{path}")
    Publisher(f"zmq+ipc://{path}").close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("zmq+tcp://192.0.2.1:5555?bind", "not an address"),
        ("zmq+ipc:///nowhere/socket", "folder that does not exist"),
    ],
)
def test_an_address_that_cannot_be_bound_says_why(text, why):
    with pytest.raises(ConfigError, match=why):
        Publisher(text, security=Security(insecure=True))


def test_a_file_at_the_address_is_not_removed(tmp_path):
    path = tmp_path / "diary.txt"
    path.write_text("dear")
    with pytest.raises(ConfigError, match="not a socket"):
        Publisher(f"zmq+ipc://{path}")
    assert path.read_text() == "dear"
