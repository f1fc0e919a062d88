"""The short way into another process: found by itself, and never in the way."""

from __future__ import annotations

import contextlib
import gc
import os
import socket

import numpy as np
import pytest

from pipeline.transport import Publisher, Subscriber
from pipeline.transport.shm import notify as line
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.notify import LineServer, connect
from pipeline.types import Frame

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="lines are Linux's, as rings in shared memory are"
)
WAIT_S = 30.0
RING = f"{os.getpid()}-0123456789abcdef"  # all of the machine see its name


def frame(seq, camera="front", shape=(48, 64, 3)):
    return Frame(np.full(shape, seq % 251, np.uint8), 1_000 + seq, seq, camera)


@pytest.fixture
def server():
    with contextlib.closing(LineServer(RING)) as made:
        yield made


def have_line(receiver):
    return len(receiver._lines) == 1


def test_a_message_comes_in_its_parts(server):
    with contextlib.closing(connect(RING)) as reader:
        server.accept()
        server.send(b"topic", b"header", b"payload")
        assert reader.receive() == [b"topic", b"header", b"payload"]
        assert reader.receive() is None
        assert reader.is_open


def test_a_ring_without_a_server_has_no_line():
    assert connect(RING) is None


def test_a_second_server_of_one_name_has_no_lines(server):
    with contextlib.closing(LineServer(RING)) as second:
        second.accept()
        assert len(second) == 0


def test_a_reader_that_stands_holds_nobody_up(server):
    with contextlib.closing(connect(RING)) as slow, contextlib.closing(connect(RING)) as quick:
        server.accept()
        for number in range(5000):
            server.send(b"", b"", str(number).encode())
            assert quick.receive()[2] == str(number).encode()
        assert len(server) == 2
        assert slow.receive()[2] == b"0"
        held = 1
        while slow.receive() is not None:
            held += 1
        assert held < 50  # history is of no use


def test_without_file_descriptors_there_are_just_no_lines(monkeypatch):
    def fail():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(line, "_socket", fail)
    assert connect(RING) is None
    with contextlib.closing(LineServer(RING)) as server:
        server.accept()
        server.send(b"", b"", b"")
        assert len(server) == 0


def test_a_reader_that_has_gone_is_let_go(server):
    connect(RING).close()
    server.accept()
    server.send(b"", b"", b"")
    assert len(server) == 0


def test_the_reader_sees_the_writer_go(server):
    with contextlib.closing(connect(RING)) as reader:
        server.accept()
        server.close()
        assert reader.receive() is None
        assert not reader.is_open


def test_another_users_process_is_not_let_in(server, monkeypatch):
    monkeypatch.setattr(line.os, "geteuid", lambda: 12345)
    assert connect(RING) is None
    server.accept()
    assert len(server) == 0


def test_frames_take_the_line_once_it_is_there(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        assert have_line(receiver)
        exchanged(sender, receiver)  # what went both ways while it was made
        count = receiver.counts["frame/front"]
        before = count.copy()
        sender._endpoint.socket.close(0)  # as if ZeroMQ were not there
        sender._hear_subscriptions = lambda: None
        for seq in range(1, 50):
            sender.send_frame(frame(seq))
            assert receiver.receive(WAIT_S).item.seq == seq
        assert count - before == {"received": 49, "given": 49}


def test_a_newcomer_and_those_with_a_line_all_get_every_frame(address, exchanged):
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


def test_who_has_no_line_still_gets_every_frame(address, exchanged, monkeypatch):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as with_line:
        exchanged(sender, with_line)
        monkeypatch.setattr("pipeline.transport.zmq.subscriber.connect", lambda ring: None)
        with Subscriber(address) as without:
            exchanged(sender, without)
            for receiver in (with_line, without):
                exchanged(sender, receiver)
            for seq in range(1000, 1010):
                sender.send_frame(frame(seq))
                assert without.receive(WAIT_S).item.seq == seq
                assert with_line.receive(WAIT_S).item.seq == seq


def test_counts_add_up_over_both_ways(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as first:
        exchanged(sender, first)
        start = sender._next_count[b"frame/front"]
        with Subscriber(address) as second:  # makes the publisher send both ways for a while
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


def test_a_subscriber_takes_one_line_a_ring(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        for seq in range(5):
            receiver._rings.clear()  # as where it knows more rings than it keeps
            exchanged(sender, receiver, frame(seq))
        assert len(receiver._lines) == len(sender._lines["front"]) == 1


def test_garbage_from_a_line_is_refused(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
        exchanged(sender, receiver, frame(1))
        server = next(iter(sender._lines.values()))
        for bits in (b"x", b"\xff" * 100, bytes(5000)):
            server._lines[0].send(bits)
        assert receiver.receive(0.2) is None
        assert receiver.counts["?"]["invalid"] == 3
        sender.send_frame(frame(7))
        assert receiver.receive(WAIT_S).item.seq == 7


def test_lines_leave_no_file_open(address, exchanged):
    def files():
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.fileno()

    gc.collect()  # what other tests have left
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver)
    before = files()
    for _ in range(3):
        with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
            exchanged(sender, receiver)
    assert files() == before
