"""Subscribers that claim what is not theirs, or more than their share."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.transport import Publisher, Subscriber
from pipeline.transport.zmq.subscriptions import MAX_TOPICS
from pipeline.transport.zmq.worker_groups import member_prefix, ready_message
from pipeline.types import Frame
from tests.security.raw_peer import FLOODS, RawPeer

WAIT_S = 30.0
RAW_PEER = Path(__file__).with_name("raw_peer.py")
PEER = Path(__file__).parents[1] / "transport" / "zmq" / "peer.py"


@pytest.fixture
def address(tmp_path):
    return f"zmq+ipc://{tmp_path}/socket"


def frame(seq=0):
    return Frame(np.zeros((48, 64, 3), np.uint8), time.time_ns(), seq, "front")


def await_true(condition):
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def exchange(sender, receiver, frames=10):
    """Send frames until so many were received."""
    got, deadline = 0, time.monotonic() + WAIT_S
    for seq in range(10**6):
        assert time.monotonic() < deadline, f"{got} of {frames} frames were received"
        sender.send_frame(frame(seq))
        got += receiver.receive(0.02) is not None
        if got >= frames:
            return


def test_a_peer_takes_back_only_its_own_subscriptions(address):
    with Publisher(address) as sender, Subscriber(address) as honest:
        exchange(sender, honest)
        with RawPeer(sender.endpoint) as stranger:
            stranger.send(b"\0frame/", b"\0frame/", b"\0", b"\1seen")
            await_true(
                lambda: sender.send_frame(frame()) and sender._subscriptions.prefixes[b"seen"]
            )
            exchange(sender, honest)
        await_true(
            lambda: sender.send_frame(frame()) and not sender._subscriptions.prefixes[b"seen"]
        )
        exchange(sender, honest)


def test_a_subscription_ends_with_its_connection_however_often_it_was_sent(address):
    with Publisher(address) as sender:
        with RawPeer(sender.endpoint) as stranger:
            stranger.send(*[b"\1frame/"] * 50)
            await_true(lambda: sender.wants_frames("front"))
            await_true(lambda: sender._subscriptions.count(b"frame/front") == 1)
        await_true(lambda: not sender.wants_frames("front"))
        assert not sender._subscriptions._connections


def test_counts_are_exact_whatever_peers_send_and_however_they_end(address):
    rng = random.Random(0)  # noqa: S311 - not for secrets
    topics = [b"frame/", b"frame/front", b"result/", b"turn/g/0123456789abcdef/frame/", b"end/x"]
    peers: list[tuple[RawPeer, set[bytes]]] = []
    with Publisher(address) as sender, contextlib.ExitStack() as stack:
        for _ in range(300):
            action = rng.random()
            if (action < 0.2 and len(peers) < 20) or not peers:
                peers.append((stack.enter_context(RawPeer(sender.endpoint)), set()))
            elif action < 0.35:
                peers.pop(rng.randrange(len(peers)))[0].close()
            else:
                peer, has = rng.choice(peers)
                topic = rng.choice(topics)
                on = rng.random() < 0.5
                peer.send((b"\1" if on else b"\0") + topic)
                has.add(topic) if on else has.discard(topic)
            if rng.random() < 0.3:
                sender.has_subscribers()
        expected = Counter(t for _, has in peers for t in has if not t.startswith(b"end/"))
        await_true(lambda: not sender._update() and sender._subscriptions.prefixes == expected)
        for peer, _ in peers:
            peer.close()
        await_true(lambda: not sender.has_subscribers())
        assert not sender._subscriptions._connections
        assert not sender._subscriptions.groups


def test_junk_topics_lock_nobody_out(address):
    with Publisher(address) as sender, RawPeer(sender.endpoint) as stranger:
        for number in range(20):
            with contextlib.suppress(OSError):  # it is closed meanwhile
                stranger.send(*[b"\1junk%d" % (number * 50 + i) for i in range(50)])
                sender.has_subscribers()
        with Subscriber(address) as honest:
            exchange(sender, honest)
            await_true(lambda: sender.has_subscribers() and stranger.is_closed())
            await_true(
                lambda: sender.send_frame(frame()) and len(sender._subscriptions.prefixes) == 1
            )


def test_a_subscriber_to_many_cameras_gets_them_all(address):
    cameras = [f"camera_{number}" for number in range(40)]
    addresses = [f"{address}?camera={camera}" for camera in cameras]
    with Publisher(address) as sender, Subscriber(addresses, results=True) as receiver:
        await_true(lambda: all(map(sender.wants_frames, cameras)))
        await_true(lambda: all(map(sender.wants_results, cameras)))
        assert receiver.receive(0) is None


def test_as_many_subscriptions_as_are_allowed_stay(address):
    with Publisher(address) as sender, RawPeer(sender.endpoint) as many:
        for number in range(MAX_TOPICS):
            many.send(b"\1frame/c%d" % number)
            sender.has_subscribers()
        await_true(lambda: sender.has_subscribers() and sender.wants_frames(f"c{MAX_TOPICS - 1}"))
        assert not many.is_closed()


def test_a_connection_with_many_memberships_gets_one_turn(address):
    claims = 30
    with (
        Publisher(address) as sender,
        RawPeer(sender.endpoint) as greedy,
        Subscriber(address, group="crew") as honest,
    ):
        names = [member_prefix("crew") + b"frame/" for _ in range(claims)]
        greedy.send(*(b"\1" + name for name in names))
        await_true(
            lambda: sender.has_subscribers() and len(sender._subscriptions.prefixes) > claims
        )
        got = sent = 0
        deadline = time.monotonic() + WAIT_S
        while sent < 60:
            assert time.monotonic() < deadline
            greedy.send(*(ready_message(name, sent) for name in names[:10]))
            sent += sender.send_frame(frame(sent))
            got += honest.receive(0.02) is not None
        assert got >= sent // 3


def test_the_counts_of_ever_new_groups_take_no_more_memory(address):
    with Publisher(address) as sender:
        for number in range(100):
            with RawPeer(sender.endpoint) as peer:
                peer.send(b"\1" + member_prefix(f"group{number}") + b"frame/")
                await_true(sender.has_subscribers)
                sender.send_frame(frame())
            await_true(lambda: not sender.has_subscribers())
        assert 50 < len(sender.counts) < 70
        assert sender.counts["turn/?/frame/front"]["busy"] > 0


def test_claims_of_many_memberships_lock_out_no_later_member(address):
    with Publisher(address) as sender:
        with RawPeer(sender.endpoint) as greedy:
            for _ in range(256):
                with contextlib.suppress(OSError):
                    greedy.send(b"\1" + member_prefix("crew") + b"frame/")
            await_true(sender.has_subscribers)
            with Subscriber(address, group="crew") as early:
                exchange(sender, early)
        with Subscriber(address, group="crew") as late:
            exchange(sender, late)


@contextlib.contextmanager
def process(*arguments):
    child = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def ages_ms(subscriber, seconds):
    end, ages = time.monotonic() + seconds, []
    while time.monotonic() < end:
        received = subscriber.receive(0.1)
        if received is not None:
            ages.append(received.age_ns() / 1e6)
    return ages


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_subscriptions_delays_no_frame(address, kind):
    endpoint = address.removeprefix("zmq+")
    with process(PEER, "publish", address, "raw", 50, "front") as sender:
        sender.stdout.readline()
        with Subscriber(address) as honest:
            await_true(lambda: honest.receive(0.1))
            before = ages_ms(honest, 0.5)
            with process(RAW_PEER, "flood", endpoint, kind) as flood:
                flood.stdout.readline()
                during = ages_ms(honest, 2.0)
            after = ages_ms(honest, 0.5)
        sender.stdin.close()
        assert '"counts"' in sender.stdout.read()  # it has ended in good order
    assert len(during) > len(before)
    assert statistics.median(during) < 250
    assert statistics.median(after) < 100


def test_a_subscriber_that_comes_during_a_flood_is_served(address):
    with (
        Publisher(address) as sender,
        process(RAW_PEER, "flood", address.removeprefix("zmq+"), "one topic") as flood,
    ):
        flood.stdout.readline()
        with Subscriber(address) as late:
            exchange(sender, late)
