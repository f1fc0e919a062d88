"""What a peer with a known key may do: send, receive, and as which cameras."""

from __future__ import annotations

import logging
import os
import time

import numpy as np
import pytest

from pipeline.cli.option_checks import check_output_paths
from pipeline.cli.sources import subscriber_security
from pipeline.errors import ConfigError
from pipeline.publishing import publisher_security
from pipeline.settings import Settings
from pipeline.transport import (
    Publisher,
    Rights,
    Security,
    Subscriber,
    load_key_pair,
    load_peers,
    make_keys,
)
from pipeline.types import Detections, Frame, Header, Result
from tests.security.other_user import NOBODY, needs_second_user

WAIT_S = 30.0
REFUSAL_S = 1.0
NAMES = ("companion", "drone", "ground")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("keys")
    for name in NAMES:
        make_keys(made, name)
    return made


@pytest.fixture(scope="module")
def keys(folder):
    return {name: load_key_pair(folder / f"{name}.key_secret") for name in NAMES}


@pytest.fixture
def security(folder, keys):
    """The security of one process, with its peers as the command line names them."""

    def make(own, *peers):
        rights = load_peers(str(folder / peer) for peer in peers)
        return Security(keys[own], tuple(rights), rights=rights)

    return make


def frame(camera="front", seq=0):
    return Frame(np.zeros((4, 4, 3), np.uint8), time.time_ns(), seq, camera)


def received(publisher, subscriber, cameras=("front",), wait_s=WAIT_S, until=1):
    """The cameras of which frames arrive within the time, or until there are so many."""
    deadline, arrived, seq = time.monotonic() + wait_s, set(), 0
    while time.monotonic() < deadline and len(arrived) < until:
        for camera in cameras:
            publisher.send_frame(frame(camera, seq))
        seq += 1
        item = subscriber.receive(0.02)
        if item is not None:
            arrived.add(item.item.camera)
    return arrived


# --- the option --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rights"),
    [
        ("drone.key", Rights()),
        ("drone.key=front", Rights(frozenset({"front"}))),
        ("drone.key=front,left/rear", Rights(frozenset({"front", "left/rear"}))),
        ("drone.key=front,send-only", Rights(frozenset({"front"}), receives=False)),
        ("drone.key=send-only", Rights(receives=False)),
        ("drone.key=receive-only", Rights(sends=False)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rights_stand_behind_the_file(folder, keys, text, rights):
    assert load_peers([f"{folder}/{text}"]) == {keys["drone"].public: rights}


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path):
    make_keys(tmp_path / "a=b", "drone")
    assert list(load_peers([f"{tmp_path}/a=b/drone.key"]).values()) == [Rights()]
    assert [r.sends for r in load_peers([f"{tmp_path}/a=b/drone.key=receive-only"]).values()] == [
        False
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("drone.key=", "'' is no camera's name"),
        ("drone.key=front,", "'' is no camera's name"),
        ("drone.key=9", "'9' is no camera's name"),
        ("drone.key=read-only", "'read-only' is no camera's name"),
        ("drone.key=" + "x" * 200, "is no camera's name"),
        ("drone.key=front,receive-only", "contradicts itself"),
        ("drone.key=send-only,receive-only", "contradicts itself"),
        ("none.key=front", r"none\.key: cannot be read"),
    ],
)
def test_invalid_rights_are_refused(folder, text, why):
    with pytest.raises(ConfigError, match=why):
        load_peers([f"{folder}/{text}"])


def test_a_key_has_one_kind_of_rights(folder, keys):
    both = [f"{folder}/drone.key=front", f"{folder}/drone.key=rear"]
    with pytest.raises(ConfigError, match="other rights"):
        load_peers(both)
    bound = {keys["drone"].public: Rights(frozenset({"front"}))}
    for texts in ([both[0], f"{folder}/drone.key"], [f"{folder}/drone.key", both[0], both[0]]):
        assert load_peers(texts) == bound


@needs_second_user
def test_a_secret_key_of_another_user_is_refused(tmp_path):
    _, secret = make_keys(tmp_path, "drone")
    os.chown(secret, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="is a secret key of another user"):
        load_key_pair(secret)


def test_the_options_of_a_process_give_its_peers_and_their_rights(folder, keys):
    settings = Settings(
        key=f"{folder}/companion.key_secret",
        peer=(f"{folder}/drone.key=front", f"{folder}/ground.key=receive-only"),
        server=f"{folder}/drone.key",
    )
    drone, ground = keys["drone"].public, keys["ground"].public
    rights = {drone: Rights(frozenset({"front"})), ground: Rights(sends=False)}
    to_peers, to_server = publisher_security(settings), subscriber_security(settings)
    assert (to_peers.peers, to_peers.rights) == ((drone, ground), rights)
    assert (to_server.peers, to_server.rights) == ((drone,), rights)


def test_the_file_of_a_key_with_rights_is_not_written_to(folder):
    settings = Settings(record=f"{folder}/drone.key", peer=(f"{folder}/drone.key=front",))
    with pytest.raises(ConfigError, match="--peer"):
        check_output_paths(settings, None, None)


# --- directions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "arrives"), [("", True), ("=receive-only", False)])
def test_a_peer_that_may_only_receive_sends_nothing(security, caplog, role, arrives):
    with (
        caplog.at_level(logging.WARNING),
        Subscriber(
            "zmq+tcp://127.0.0.1:0?bind",
            security=security("companion", f"ground.key{role}", "drone.key=send-only"),
        ) as subscriber,
        Publisher(
            f"zmq+{subscriber._endpoint.last_endpoint()}?connect",
            security=security("ground", "companion.key"),
        ) as publisher,
    ):
        assert (
            bool(received(publisher, subscriber, wait_s=WAIT_S if arrives else REFUSAL_S))
            == arrives
        )
    assert ("refused 127.0.0.1" in caplog.text) == (not arrives)


@pytest.mark.parametrize(
    ("role", "arrives"), [("", True), ("=send-only", False), ("=front,send-only", False)]
)
def test_a_peer_that_may_only_send_receives_nothing(security, role, arrives):
    with (
        Publisher(
            "zmq+tcp://127.0.0.1:0",
            security=security("companion", f"drone.key{role}", "ground.key=receive-only"),
        ) as publisher,
        Subscriber(
            f"zmq+{publisher.endpoint}", security=security("drone", "companion.key")
        ) as subscriber,
    ):
        assert (
            bool(received(publisher, subscriber, wait_s=WAIT_S if arrives else REFUSAL_S))
            == arrives
        )


def test_the_only_peer_that_may_send_is_the_server(security):
    """So `--server` is not needed beside the keys of viewers."""
    with (
        Publisher(
            "zmq+tcp://127.0.0.1:0", security=security("drone", "companion.key")
        ) as publisher,
        Subscriber(
            f"zmq+{publisher.endpoint}",
            security=security("companion", "drone.key=front", "ground.key=receive-only"),
        ) as subscriber,
    ):
        assert received(publisher, subscriber) == {"front"}


def test_without_a_peer_of_the_right_direction_nothing_is_opened(security):
    with pytest.raises(ConfigError, match="public key"):
        Publisher("zmq+tcp://127.0.0.1:0", security=security("drone", "companion.key=send-only"))
    with pytest.raises(ConfigError, match="public key"):
        Subscriber("zmq+tcp://127.0.0.1:1", security=security("drone", "ground.key=receive-only"))


# --- cameras -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        (["drone.key"], {"front", "rear"}),
        (["drone.key=front"], {"front"}),
        (["drone.key=front,rear"], {"front", "rear"}),
        (["drone.key", "ground.key=rear"], {"front"}),
        (["drone.key=front,rear", "ground.key=rear"], {"front", "rear"}),
    ],
    ids=["unbound", "bound", "bound to two", "bound to another", "bound to both"],
)
@pytest.mark.parametrize("binds", [True, False], ids=["binds", "connects"])
def test_a_key_sends_only_the_cameras_that_it_is_bound_to(security, caplog, binds, peers, expected):
    here = security("companion", *peers)
    if not binds:
        here = Security(here.keys, here.peers[:1], rights=here.rights)
    there = security("drone", "companion.key")
    cameras = ("front", "rear")
    if binds:
        subscriber = Subscriber("zmq+tcp://127.0.0.1:0?bind", streams=2, security=here)
        publisher = Publisher(
            f"zmq+{subscriber._endpoint.last_endpoint()}?connect", streams=2, security=there
        )
    else:
        publisher = Publisher("zmq+tcp://127.0.0.1:0", streams=2, security=there)
        subscriber = Subscriber(f"zmq+{publisher.endpoint}", streams=2, security=here)
    with caplog.at_level(logging.WARNING), publisher, subscriber:
        assert received(publisher, subscriber, cameras, until=len(expected)) == expected
        if expected != set(cameras):
            assert received(publisher, subscriber, cameras, REFUSAL_S, until=2) == expected
            assert subscriber.counts["?"]["invalid"] > 0
            assert "may not send camera rear" in caplog.text


def test_results_are_bound_like_frames(security):
    with (
        Subscriber(
            "zmq+tcp://127.0.0.1:0?bind",
            frames=False,
            results=True,
            security=security("companion", "drone.key=front"),
        ) as subscriber,
        Publisher(
            f"zmq+{subscriber._endpoint.last_endpoint()}?connect",
            streams=2,
            security=security("drone", "companion.key"),
        ) as publisher,
    ):
        deadline, arrived, seq = time.monotonic() + WAIT_S, 0, 0
        while arrived < 5 and time.monotonic() < deadline:
            for camera in ("rear", "front"):
                header = Header(camera, seq, time.time_ns(), 4, 4)
                publisher.send_result(Result(header, Detections.empty(())))
            seq += 1
            item = subscriber.receive(0.02)
            if item is not None:
                assert item.item.header.camera == "front"
                arrived += 1
        assert arrived == 5


def test_an_end_of_a_camera_of_another_key_counts_nothing(security):
    """A peer cannot make the messages of another count as lost."""
    with Subscriber(
        "zmq+tcp://127.0.0.1:0?bind",
        streams=2,
        security=security("companion", "drone.key=front", "ground.key=rear"),
    ) as subscriber:
        address = f"zmq+{subscriber._endpoint.last_endpoint()}?connect"
        drone = Publisher(address, security=security("drone", "companion.key"))
        ground = Publisher(address, security=security("ground", "companion.key"))
        with drone, ground:
            assert received(drone, subscriber) == {"front"}
            ground._sender = drone._sender
            ground._next_count[b"frame/front"] = 10**9
            ground.close(flush_s=0.5)
            assert subscriber.receive(0.5) is None
        assert subscriber.counts["frame/front"]["lost"] < 10**6
