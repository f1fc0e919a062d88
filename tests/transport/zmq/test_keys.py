"""Keys in files, and which peers they admit."""

from __future__ import annotations

import logging
import os
import stat
import time

import numpy as np
import pytest
import zmq.auth

from pipeline.errors import ConfigError
from pipeline.transport import (
    Publisher,
    Security,
    Subscriber,
    load_key_pair,
    load_public_key,
    make_keys,
)
from pipeline.types import Frame

WAIT_S = 30.0
REFUSAL_S = 1.0


@pytest.fixture
def keys(tmp_path):
    """The key pairs of a robot and a viewer."""
    for name in ("robot", "viewer"):
        make_keys(tmp_path, name)
    return {name: load_key_pair(tmp_path / f"{name}.key_secret") for name in ("robot", "viewer")}


def frame(seq=0):
    return Frame(np.zeros((4, 4, 3), np.uint8), time.time_ns(), seq, "front")


def hears(publisher, subscriber, wait_s):
    """Whether anything of the publisher arrives within the time."""
    deadline = time.monotonic() + wait_s
    seq = 0
    while time.monotonic() < deadline:
        publisher.send_frame(frame(seq))
        seq += 1
        if subscriber.receive(0.02) is not None:
            return True
    return False


def test_keys_are_written_once_and_the_secret_for_its_owner_only(tmp_path):
    public, secret = make_keys(tmp_path / "new folder", "robot")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    pair = load_key_pair(secret)
    assert load_public_key(public) == load_public_key(secret) == pair.public
    assert b"secret" not in public.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        make_keys(tmp_path / "new folder", "robot")


def test_every_key_pair_is_different(keys):
    assert keys["robot"] != keys["viewer"]
    assert "secret" not in repr(keys["robot"])


def test_pyzmq_reads_the_files(tmp_path):
    _, secret = make_keys(tmp_path, "robot")
    pair = load_key_pair(secret)
    assert zmq.auth.load_certificate(secret) == (pair.public, pair.secret)


@pytest.mark.parametrize("name", ["", "../robot", "a/b", "a b", "x" * 65])
def test_a_key_name_is_no_path(tmp_path, name):
    with pytest.raises(ConfigError, match="key name"):
        make_keys(tmp_path, name)


def test_a_secret_key_readable_by_others_is_refused(tmp_path):
    _, secret = make_keys(tmp_path, "robot")
    os.chmod(secret, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key_pair(secret)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no key"),
        (b"\xff\xfe\x00", "is not a key"),
        (b'public-key = "short"', "holds no key"),
        (b'public-key = "' + b"~" * 40 + b'"', "damaged"),
    ],
    ids=["empty", "binary", "short", "not z85"],
)
def test_a_damaged_key_is_refused(tmp_path, content, why):
    path = tmp_path / "x.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        load_public_key(path)
    with pytest.raises(ConfigError):
        load_key_pair(path)


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.key: cannot be read: No such file"):
        load_public_key(tmp_path / "none.key")


def test_known_keys_are_accepted(keys):
    robot = Security(keys["robot"], (keys["viewer"].public,))
    viewer = Security(keys["viewer"], (keys["robot"].public,))
    with (
        Publisher("zmq+tcp://127.0.0.1:0", security=robot) as publisher,
        Subscriber(f"zmq+{publisher.endpoint}", security=viewer) as subscriber,
    ):
        assert hears(publisher, subscriber, WAIT_S)


def test_an_unknown_key_is_refused_and_logged(keys, tmp_path, caplog, await_true):
    make_keys(tmp_path, "stranger")
    stranger = load_key_pair(tmp_path / "stranger.key_secret")
    robot = Security(keys["robot"], (keys["viewer"].public,))
    with (
        Publisher("zmq+tcp://127.0.0.1:0", security=robot) as publisher,
        Subscriber(
            f"zmq+{publisher.endpoint}", security=Security(stranger, (keys["robot"].public,))
        ) as subscriber,
        caplog.at_level(logging.WARNING),
    ):

        def is_refused():
            assert not hears(publisher, subscriber, 0.1)
            return "refused 127.0.0.1" in caplog.text

        await_true(is_refused)
        assert not hears(publisher, subscriber, REFUSAL_S)
    assert stranger.public.decode() in caplog.text


def test_a_peer_without_the_right_keys_receives_nothing(keys):
    robot = Security(keys["robot"], (keys["viewer"].public,))
    for security in (Security(), Security(keys["viewer"], (keys["viewer"].public,))):
        with (
            Publisher("zmq+tcp://127.0.0.1:0", security=robot) as publisher,
            Subscriber(f"zmq+{publisher.endpoint}", security=security) as subscriber,
        ):
            assert not hears(publisher, subscriber, REFUSAL_S)


@pytest.mark.parametrize("end", [Publisher, Subscriber])
def test_a_key_without_those_of_peers_is_refused(keys, end):
    with pytest.raises(ConfigError, match="public key"):
        end("zmq+tcp://127.0.0.1:0", security=Security(keys["robot"]))


def test_an_invalid_key_is_damaged(tmp_path):
    path = tmp_path / "x.key"
    path.write_text('public-key = "' + "#" * 40 + '"')
    with pytest.raises(ConfigError, match="damaged"):
        load_public_key(path)


def test_keys_of_two_pairs_are_refused(tmp_path):
    secrets = [make_keys(tmp_path, name)[1] for name in ("robot", "viewer")]
    first, second = (path.read_text().splitlines() for path in secrets)
    secrets[0].write_text("\n".join([*first[:-1], second[-1]]))
    with pytest.raises(ConfigError, match="two pairs"):
        load_key_pair(secrets[0])


def test_a_file_in_place_of_the_key_folder_is_named(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(ConfigError) as refusal:
        make_keys(tmp_path / "folder", "robot")
    assert "overwritten" not in str(refusal.value)


@pytest.mark.parametrize("written", [0, 1])
def test_a_full_disk_leaves_no_half_written_key(tmp_path, monkeypatch, written):
    full = iter([False] * written + [True])
    opened = open

    def open_full(file, *arguments, **options):
        if not isinstance(file, int) or not next(full):
            return opened(file, *arguments, **options)
        os.close(file)
        return opened("/dev/full", "w")

    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    monkeypatch.setattr("builtins.open", open_full)
    with pytest.raises(ConfigError, match=r"robot\.key.*: cannot be written: No space left"):
        make_keys(tmp_path, "robot")
    assert list(tmp_path.iterdir()) == []
