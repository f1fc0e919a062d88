"""The memory of what is received: one limit for each process, whatever its peers send."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket as sockets
import threading
import time

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.transport import Limits, ResultSubscription, Subscriber
from pipeline.transport.wire import messages
from pipeline.transport.zmq.peers import incoming
from pipeline.transport.zmq.pending import HEADER_COST, Pending
from pipeline.transport.zmq.reorder import ResultOrder
from pipeline.transport.zmq.results import KeptFrames
from pipeline.transport.zmq.stream_counts import Streams
from pipeline.types import Detections, Frame, Header, Result
from tests.faults.processes import Command, json_of, last_lines, wait_for
from tests.security.messages import envelope, frame_message, peer, result_message

WAIT_S = 20.0
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"


@pytest.fixture
def address(tmp_path):
    return f"zmq+ipc://{tmp_path}/socket"


def free_port():
    with sockets.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def publisher_by_hand(port):
    """A connection that has introduced itself as a publisher, to send bytes of any kind."""
    connection = sockets.create_connection(("127.0.0.1", port), WAIT_S)
    connection.sendall(GREETING)
    received(connection, len(GREETING))
    connection.sendall(b"\x04" + bytes([len(READY)]) + READY)
    # Whatever comes before the other end is ready as well breaks the protocol.
    _, length = received(connection, 2)
    received(connection, length)
    connection.sendall(b"\x01\x0cresult/front")
    return connection


def received(connection, count):
    """The next bytes that the other end sends."""
    answer = b""
    while len(answer) < count:
        part = connection.recv(count - len(answer))
        if not part:
            raise ConnectionError("the connection was ended")
        answer += part
    return answer


class EndlessMessages:
    """Sends the parts of messages that never end, on ever new connections."""

    def __init__(self, port, part):
        self._port, self._parts = port, part * max(1, (1 << 18) // len(part))
        self.connections = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *reason):
        self._stopped.set()
        self._thread.join()

    def _run(self):
        while not self._stopped.wait(0.05):
            with contextlib.suppress(OSError), publisher_by_hand(self._port) as connection:
                self.connections += 1
                while not self._stopped.is_set():
                    connection.sendall(self._parts)


@pytest.mark.parametrize(
    "part",
    [b"\x03" + (1 << 18).to_bytes(8, "big") + bytes(1 << 18), b"\x01\x00"],
    ids=["large", "empty"],
)
def test_endless_parts_end_their_connection_and_no_other(tmp_path, part):
    port, found = free_port(), tmp_path / "found.jsonl"
    address = f"zmq+tcp://127.0.0.1:{port}?bind"
    command = Command(
        *("view", "--subscribe", address, "--jsonl", found, "--max-frame-mb", "8"),
        folder=tmp_path,
    )
    try:
        with peer(address) as honest:
            numbers = itertools.count()

            def send():
                number = next(numbers)
                honest.send_multipart(result_message(count=number, seq=number))
                time.sleep(0.02)
                return last_lines(found)

            wait_for(send, "a result", WAIT_S)
            before_mb, most_mb = command.rss_mb(), 0.0
            with EndlessMessages(port, part) as hostile:
                end_s = time.monotonic() + 3
                while time.monotonic() < end_s or hostile.connections < 2:
                    send()
                    most_mb = max(most_mb, command.rss_mb())
                    assert time.monotonic() < end_s + WAIT_S
            sent = next(numbers)
            honest.send_multipart(result_message(count=sent, seq=sent))
            wait_for(lambda: last_lines(found)[-1]["seq"] == sent, "the last result", WAIT_S)
        assert command.end() == 0
    finally:
        command.kill()
    # Some comes in between two checks, the more the longer the machine keeps them waiting.
    assert most_mb - before_mb < (incoming.LEAST_BYTES >> 20) + 750
    assert "connections are ended" in command.said
    shown = sum(1 for _ in found.open())
    assert shown > sent / 2


def test_a_message_of_many_parts_is_refused_and_its_connection_ended(address):
    with Subscriber(f"{address}?bind") as subscriber, peer(address) as hostile:
        hostile.sndhwm = 0

        def refused():
            hostile.send_multipart([*frame_message(), *[b""] * 2000])
            assert subscriber.receive(0.05) is None
            return subscriber.counts["?"]["invalid"]

        wait_for(refused, "refusing the message", WAIT_S)


def test_a_message_of_too_many_parts_to_read_drops_all_connections(address, monkeypatch):
    monkeypatch.setattr(incoming, "MAX_DISCARDED", 1000)
    with (
        Subscriber(f"{address}?bind") as subscriber,
        peer(address) as hostile,
        peer(address) as honest,
    ):

        def refused():
            hostile.send_multipart([*frame_message(), *[b""] * 2000])
            assert subscriber.receive(0.05) is None
            return subscriber.counts["?"]["invalid"]

        wait_for(refused, "refusing the message", WAIT_S)

        def received():
            honest.send_multipart(frame_message(seq=7))
            return subscriber.receive(0.05)

        assert wait_for(received, "a frame on a new connection", WAIT_S).item.seq == 7


# --- many names -----------------------------------------------------------------------------------


def test_cameras_beyond_the_limit_are_refused_and_counted(address, caplog):
    caplog.set_level(logging.WARNING)
    with (
        Subscriber(f"{address}?bind", streams=50, limits=Limits(max_cameras=2)) as subscriber,
        peer(address) as sender,
    ):
        numbers = itertools.count()

        def send(camera):
            number = next(numbers)
            sender.send_multipart(frame_message(camera=camera, count=number, seq=number))
            return subscriber.receive(0.05)

        for camera in ("front", "back"):
            wait_for(lambda camera=camera: send(camera), f"a frame of {camera}", WAIT_S)
        for number in range(100):
            assert send(f"c{number}") is None
        assert subscriber.counts["?"]["refused"] == subscriber.counts["?"]["received"] > 90
        assert set(subscriber.counts) == {"frame/front", "frame/back", "?"}
        assert wait_for(lambda: send("front"), "a frame of a known camera", WAIT_S)
    assert caplog.text.count("--max-cameras") == 1


def test_cameras_of_connections_that_have_ended_make_room(address):
    with Subscriber(f"{address}?bind", limits=Limits(max_cameras=1)) as subscriber:
        for camera in ("front", "back"):
            with peer(address) as sender:

                def receive(sender=sender, camera=camera):
                    sender.send_multipart(frame_message(camera=camera))
                    received = subscriber.receive(0.05)
                    return received is not None and received.item.camera == camera

                wait_for(receive, f"a frame of {camera}", WAIT_S)


def test_the_command_line_limits_the_cameras(address, tmp_path):
    found, stats = tmp_path / "found.jsonl", tmp_path / "stats.json"
    command = Command(
        *("view", "--subscribe", f"{address}?bind", "--jsonl", found, "--stats", stats),
        *("--max-cameras", 3),
        folder=tmp_path,
    )
    try:
        with peer(address) as sender:

            def send():
                for number in range(10):
                    sender.send_multipart(result_message(camera=f"c{number}"))
                time.sleep(0.05)
                return len({line["camera"] for line in last_lines(found)}) == 3

            wait_for(send, "results of three cameras", WAIT_S)
        assert command.end() == 0
    finally:
        command.kill()
    received = json_of(stats)["received"]
    assert len(received) == 4
    assert received["?"]["refused"] > 0


def test_a_sender_of_ever_new_numbers_has_one_turn(address):
    with (
        Subscriber(f"{address}?bind", streams=500) as subscriber,
        peer(address) as hostile,
        peer(address) as honest,
    ):

        def both():
            hostile.send_multipart(frame_message(sender=2, camera="back"))
            honest.send_multipart(frame_message(sender=1))
            subscriber.receive(0.05)
            return {"frame/front", "frame/back"} <= set(subscriber.counts)

        wait_for(both, "a frame of each", WAIT_S)
        for sender in range(1000, 1400):
            hostile.send_multipart(frame_message(sender=sender, camera="back"))
        honest.send_multipart(frame_message(sender=1, count=10**5, seq=10**5))
        turns = [subscriber.receive(0.2) for _ in range(40)]
        cameras = [turn.item.camera for turn in turns if turn is not None]
        # Messages are read in blocks; of each block, one frame of either camera waits.
        assert "front" in cameras
        assert cameras.count("back") < 40
        assert subscriber.counts["frame/back"]["superseded"] > 300


# --- limits in bytes ------------------------------------------------------------------------------


def arrival(camera, nbytes, connection=1):
    fields = envelope(camera=camera, kind="raw", width=1, height=1)
    header = messages.decode(
        [f"frame/{camera}".encode(), msgspec.msgpack.encode(fields), bytes(3)], Limits()
    )
    stream = Streams().admit(f"frame/{camera}", header.header, connection, lambda: "localhost")
    return stream, header, nbytes


def test_messages_that_wait_are_limited_in_bytes():
    pending, counts = Pending(16, 1000), []
    for number in range(100):
        stream, message, _ = arrival(f"c{number % 10}", 0, number % 5)
        counts.append(stream.count)
        pending.add(stream, message, 90)
    held = [pending.take(pending.first().key) for _ in range(11)]
    assert len(pending) == 0
    assert sum(arrived.nbytes for arrived in held) <= 1000
    assert sum(count["superseded"] for count in counts) == 100 - len(held)


def test_large_messages_displace_each_other_and_no_small_one():
    pending = Pending(16, 1000)
    small, message, _ = arrival("small", 10)
    pending.add(small, message, 10)
    for _ in range(10):
        pending.add(*arrival("large", 400, 2))
    assert pending.take(pending.first().key).stream is small
    assert small.count["superseded"] == 0


def test_a_header_costs_what_it_takes_once_decoded():
    """Most of it are labels: texts in a dictionary."""
    labels = dict.fromkeys(range(10000), "x")
    packed = msgspec.msgpack.encode(labels)
    taken = 10_000 * 190  # a text, a number and an entry of a dictionary, by sys.getsizeof
    assert HEADER_COST * len(packed) > taken


def test_frames_that_wait_for_results_are_limited_in_bytes():
    image = np.zeros((10, 10, 3), np.uint8)
    kept = KeptFrames(10 * image.nbytes)
    frames = [Frame(image.copy(), 1, seq, f"c{seq % 5}") for seq in range(100)]
    for frame in frames:
        kept.add(frame)
    found = [frame for frame in frames if kept.find(frame.header)]
    assert found == frames[-10:]


def test_results_that_wait_for_others_are_limited_in_bytes():
    many = 1000
    found = Detections(
        np.zeros((many, 4), np.float32),
        np.zeros(many, np.float32),
        np.zeros(many, np.int32),
        ("thing",),
    )
    order = ResultOrder(hold_s=1e9, max_bytes=10 * 24 * many)
    order.put(1, Result(Header("front", 0, 0, 8, 8), found))
    assert order.get()
    order.put(2, Result(Header("front", 1, 1, 8, 8), found))  # and nothing more
    assert order.get()
    for seq in range(3, 203, 2):  # with gaps, as from a sender that takes turns
        order.put(1, Result(Header("front", seq, seq, 8, 8), found))
        while order.get():
            pass
    assert 0 < order.waiting <= 10


def test_large_pictures_of_many_cameras_keep_to_the_limit(address, tmp_path):
    side = 2000
    jpeg = cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes()
    limits = Limits(max_frame_mb=side * side * 3 // (1 << 20) + 1)
    with (
        ResultSubscription(f"{address}?bind", images=True, limits=limits, streams=16) as results,
        peer(address) as sender,
    ):
        numbers = itertools.count()

        def send():
            number = next(numbers)
            for camera in range(20):
                message = frame_message(
                    *(jpeg, "jpeg"), camera=f"c{camera}", count=number, seq=number
                )
                message[1] = msgspec.msgpack.encode(
                    {**msgspec.msgpack.decode(message[1]), "width": side, "height": side}
                )
                sender.send_multipart(message)
            results.receive(0.3)
            return number > 5 and results.counts()["received"]["?"]["refused"]

        wait_for(send, "frames beyond the limit", WAIT_S)
        kept = results._frames
        held = sum(frame.image.nbytes for frames in kept._of_camera.values() for frame in frames)
        assert 0 < held <= limits.max_kept_bytes
