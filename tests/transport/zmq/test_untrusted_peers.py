"""Peers that are not trusted, and other machines with other clocks."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket as unix
import time

import msgspec
import numpy as np
import pytest
import zmq

from pipeline.errors import ConfigError
from pipeline.transport import Limits, Publisher, Security, Subscriber, clock
from pipeline.transport import address as address_module
from pipeline.transport.clock import ClockServer
from pipeline.transport.zmq import publisher, stream_counts
from pipeline.types import ClockOffset, Frame

SHAPE = (48, 64, 3)


@pytest.fixture
def far(monkeypatch):
    """Makes the loopback look like another machine, whose clock is 5 s ahead."""
    monkeypatch.setattr(address_module, "is_loopback", lambda host: False)
    monkeypatch.setattr(clock, "is_loopback", lambda host: False)
    ahead = functools.partial(ClockServer, now_ns=lambda: time.time_ns() + AHEAD_NS)
    monkeypatch.setattr(publisher, "ClockServer", ahead)


AHEAD_NS = 5_000_000_000


@pytest.mark.usefixtures("far")
def test_ages_between_machines_are_corrected_for_the_clocks(caplog, await_true):
    open_to_all = Security(insecure=True)
    with (
        Publisher("zmq+tcp://127.0.0.1:0", security=open_to_all) as sender,
        Subscriber(f"zmq+{sender.endpoint}", security=open_to_all) as receiver,
    ):

        def attempt():
            image = np.zeros(SHAPE, np.uint8)
            there_ns = time.time_ns() + AHEAD_NS
            sender.send_frame(Frame(image, there_ns, 0, "front"), ClockOffset(0, 1000))
            received = receiver.receive(0.05)
            return received if received is not None and received.clock is not None else None

        received = await_true(attempt)
        assert received.header.kind == "jpeg"
        assert abs(received.clock.offset_ns - AHEAD_NS) <= received.clock.error_ns
        assert received.clock.error_ns > 1000  # that of the measurement plus that of the frame
        assert abs(received.age_ns()) < AHEAD_NS / 2
        await_true(lambda: "ms ahead of this machine" in caplog.text)


@pytest.mark.usefixtures("far")
def test_between_machines_keys_or_insecure_are_required():
    for end in (Publisher, Subscriber):
        with pytest.raises(ConfigError, match="--insecure"):
            end("zmq+tcp://127.0.0.1:0")


# --- peers that send something else ---------------------------------------------------------------


@contextlib.contextmanager
def stranger(address, kind=zmq.PUB):
    """A bare socket at the other end."""
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = 0
        yield socket


def test_garbage_is_refused_and_counted(address, caplog, await_true, exchanged, monkeypatch):
    monkeypatch.setattr(stream_counts, "LOG_EVERY_S", 1e6)
    random = np.random.default_rng(0)
    header = {"version": 1, "camera": "front"}
    garbage = [
        [b"frame/front"],
        [b"frame/front", b"", b"", b"", b""],
        [b"frame/front", random.bytes(100), random.bytes(100)],
        [b"frame/front", msgspec.msgpack.encode(header), b""],
        [b"frame/front", msgspec.msgpack.encode({"version": 9}), b""],
        [b"frame/" + random.bytes(50), random.bytes(5), b""],
    ]
    with (
        Subscriber(f"{address}?bind", streams=16) as receiver,
        stranger(address) as socket,
        caplog.at_level(logging.WARNING),
    ):
        socket.connect(address.removeprefix("zmq+"))
        await_true(
            lambda: (
                [socket.send_multipart(m) for m in garbage]
                and receiver.receive(0.05) is None
                and receiver.counts["?"]["invalid"] >= 3 * len(garbage)
            )
        )
        with Publisher(f"{address}?connect", payload="raw") as sender:
            exchanged(sender, receiver)
    assert "version 9 came" in caplog.text
    assert caplog.text.count("parts came") == 1  # one line, not one per message


def test_too_large_a_part_ends_the_connection_before_it_is_received(address, exchanged):
    with (
        Subscriber(f"{address}?bind", limits=Limits(max_frame_mb=1)) as receiver,
        stranger(address) as socket,
    ):
        socket.connect(address.removeprefix("zmq+"))
        huge = bytes(8 << 20)
        for _ in range(20):
            socket.send_multipart([b"frame/front", b"x", huge])
            assert receiver.receive(0.02) is None
        assert receiver.counts["?"]["received"] == 0
        with Publisher(f"{address}?connect", payload="raw") as sender:
            exchanged(sender, receiver)


def test_peers_that_do_not_speak_zeromq_are_ignored(exchanged):
    with Publisher("zmq+tcp://127.0.0.1:0") as sender:
        port = int(sender.endpoint.rpartition(":")[2])
        for bits in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 1000, bytes(1000)):
            with unix.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(bits)
        with Subscriber(f"zmq+{sender.endpoint}") as receiver:
            exchanged(sender, receiver)


def test_invalid_messages_of_a_subscriber_are_ignored(address, await_true):
    with Publisher(address, payload="raw") as sender, stranger(address, zmq.XSUB) as socket:
        socket.setsockopt(zmq.ONLY_FIRST_SUBSCRIBE, 1)  # allows other bytes after a subscription
        socket.connect(address.removeprefix("zmq+"))
        socket.send(b"\x01frame/")
        await_true(lambda: sender.wants_frames("front"))
        for bits in (b"", b"\x02hello", b"\x00never subscribed", bytes(100)):
            socket.send(bits)
        socket.send_multipart([b"\x02", b"\x01frame/"])
        socket.send(b"\x00frame/")
        await_true(lambda: not sender.wants_frames("front"))
