"""Notifications past ZeroMQ: readers connect by themselves, and never delay the writer."""

from __future__ import annotations

import contextlib
import gc
import os
import socket

import numpy as np
import pytest

from pipeline.transport import Publisher, Subscriber
from pipeline.transport.shm import ring_file, rings
from pipeline.transport.shm.rings import NotifyServer, connect
from pipeline.types import Frame

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="notifications need Linux, as rings in shared memory do"
)
WAIT_S = 30.0
RING = f"{os.getpid()}-0123456789abcdef"  # visible to all processes of the machine


def frame(seq, camera="front", shape=(48, 64, 3)):
    return Frame(np.full(shape, seq % 251, np.uint8), 1_000 + seq, seq, camera)


@pytest.fixture
def server():
    with contextlib.closing(NotifyServer(RING)) as made:
        yield made


def is_notified(receiver):
    return len(receiver._rings.clients) == 1


def test_a_message_arrives_in_its_parts(server):
    with contextlib.closing(connect(RING, b"reader")) as reader:
        server.accept([b"reader"])
        server.send(b"topic", b"header", b"payload")
        assert reader.receive() == [b"topic", b"header", b"payload"]
        assert reader.receive() is None
        assert reader.is_open


def test_only_subscribers_are_accepted_and_each_once(server):
    with contextlib.ExitStack() as stack:
        names = [b"stranger"] * 10 + [b"reader"] * 3 + [b""]
        connected = [stack.enter_context(contextlib.closing(connect(RING, n))) for n in names]
        server.accept([b"reader", b"other"])
        assert server.names == {b"reader"}
        server.send(b"topic", b"header", b"payload")
        assert [reader.receive() is not None for reader in connected].count(True) == 1


def test_a_flood_of_connections_is_accepted_in_parts(server):
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            silent.connect(rings.notify_path_of(RING))
        with contextlib.closing(connect(RING, b"reader")):
            for _ in range(3):
                server.accept([b"reader"])
            assert server.names == {b"reader"}
        assert len(server._unnamed) <= rings.MAX_ACCEPTED


def test_a_ring_without_a_server_has_no_notifications():
    assert connect(RING, b"reader") is None


def test_a_second_server_of_one_ring_has_no_readers(server):
    with contextlib.closing(NotifyServer(RING)) as second:
        second.accept([b"reader"])
        assert len(second) == 0


def test_a_stopped_reader_does_not_delay_others(server):
    with (
        contextlib.closing(connect(RING, b"reader")) as slow,
        contextlib.closing(connect(RING, b"quick")) as quick,
    ):
        server.accept([b"reader", b"quick"])
        for number in range(5000):
            server.send(b"", b"", str(number).encode())
            assert quick.receive()[2] == str(number).encode()
        assert len(server) == 2
        assert slow.receive()[2] == b"0"
        held = 1
        while slow.receive() is not None:
            held += 1
        assert held < 50  # old messages are useless


def test_without_file_descriptors_there_are_no_notifications(monkeypatch):
    def fail():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(rings, "_socket", fail)
    assert connect(RING, b"reader") is None
    with contextlib.closing(NotifyServer(RING)) as server:
        server.accept([b"reader"])
        server.send(b"", b"", b"")
        assert len(server) == 0


def test_a_reader_that_has_ended_is_removed(server):
    connect(RING, b"reader").close()
    server.accept([b"reader"])
    server.send(b"", b"", b"")
    assert len(server) == 0


def test_the_reader_notices_that_the_writer_ended(server):
    with contextlib.closing(connect(RING, b"reader")) as reader:
        server.accept([b"reader"])
        server.close()
        assert reader.receive() is None
        assert not reader.is_open


def test_another_users_process_is_refused(server, monkeypatch):
    monkeypatch.setattr(rings.os, "geteuid", lambda: 12345)
    assert connect(RING, b"reader") is None
    server.accept([b"reader"])
    assert len(server) == 0


def test_frames_are_notified_past_zeromq_once_connected(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        assert is_notified(receiver)
        exchanged(sender, receiver)  # sent both ways while it connected
        count = receiver.counts["frame/front"]
        before = count.copy()
        sender._endpoint.socket.close(0)  # as without ZeroMQ
        sender._update = lambda: None
        for seq in range(1, 50):
            sender.send_frame(frame(seq))
            assert receiver.receive(WAIT_S).item.seq == seq
        assert count - before == {"received": 49, "given": 49}


def test_new_and_notified_subscribers_all_get_every_frame(address, exchanged):
    with Publisher(address, payload="shm") as sender, contextlib.ExitStack() as stack:
        receivers = []
        for _ in range(3):
            receivers.append(stack.enter_context(Subscriber(address)))
            exchanged(sender, receivers[-1])
        for receiver in receivers:
            exchanged(sender, receiver)
        for seq in range(1000, 1010):
            sender.send_frame(frame(seq))
            for receiver in receivers:
                assert receiver.receive(WAIT_S).item.seq == seq


def test_a_subscriber_that_cannot_connect_gets_every_frame(address, exchanged, monkeypatch):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as notified:
        exchanged(sender, notified)
        monkeypatch.setattr("pipeline.transport.shm.rings.connect", lambda ring, name: None)
        with Subscriber(address) as without:
            exchanged(sender, without)
            for receiver in (notified, without):
                exchanged(sender, receiver)
            for seq in range(1000, 1010):
                sender.send_frame(frame(seq))
                assert without.receive(WAIT_S).item.seq == seq
                assert notified.receive(WAIT_S).item.seq == seq


def test_readers_that_do_not_subscribe_take_no_subscribers_place(address, exchanged, monkeypatch):
    with Publisher(address, payload="shm") as sender, contextlib.ExitStack() as stack:
        monkeypatch.setattr("pipeline.transport.shm.rings.connect", lambda ring, name: None)
        receiver = stack.enter_context(Subscriber(address))
        exchanged(sender, receiver)
        ring, _ = sender._payloads.rings._rings["front"]
        for name in (b"", b"1", b"2", b"3"):
            stack.enter_context(contextlib.closing(connect(ring.ring, name)))
        for seq in range(1000, 1010):
            sender.send_frame(frame(seq))
            assert receiver.receive(WAIT_S).item.seq == seq


def test_counts_add_up_over_both_ways(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as first:
        exchanged(sender, first)
        start = sender._next_count[b"frame/front"]
        with Subscriber(address) as second:  # the publisher sends both ways for a while
            exchanged(sender, second)
            for seq in range(100):
                sender.send_frame(frame(seq))
                first.receive(0)
                second.receive(0)
            sender.send_frame(frame(100))
            sent = sender._next_count[b"frame/front"]
            for receiver in (first, second):
                while receiver.receive(WAIT_S).item.seq != 100:
                    pass
                count = receiver.counts["frame/front"]
                assert count["received"] == sum(
                    count[fate] for fate in ("given", "superseded", "gone", "invalid")
                )
            count = first.counts["frame/front"]
            assert count["received"] + count["lost"] == sent
            assert 0 < second.counts["frame/front"]["received"] <= sent - start


def test_a_subscriber_connects_once_per_ring(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        for seq in range(5):
            receiver._rings._readers.clear()  # as with more rings than it keeps
            exchanged(sender, receiver, frame(seq))
        assert len(receiver._rings.clients) == len(sender._payloads.rings.readers("front")) == 1


def test_garbage_in_a_notification_is_refused(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        exchanged(sender, receiver, frame(1))
        _, server = sender._payloads.rings._rings["front"]
        for bits in (b"x", b"\xff" * 100, bytes(5000)):
            next(iter(server._readers)).send(bits)
        assert receiver.receive(0.2) is None
        assert receiver.counts["?"]["invalid"] == 3
        sender.send_frame(frame(7))
        assert receiver.receive(WAIT_S).item.seq == 7


def test_notifications_leave_no_file_open(address, exchanged):
    def files():
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.fileno()

    gc.collect()  # of other tests
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
    before = files()
    for _ in range(3):
        with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
            exchanged(sender, receiver)
    assert files() == before
