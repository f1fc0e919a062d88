"""Publishers and subscribers of one process, on real sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import socket as unix
import threading
import time

import numpy as np
import pytest
import zmq

from pipeline.errors import ConfigError, RunError
from pipeline.transport import Limits, Publisher, Subscriber, WireError
from pipeline.transport.shm import ring_file
from pipeline.transport.zmq import frame_payloads
from pipeline.types import Classifications, ClockOffset, Detections, Frame, Header, Result

WAIT_S = 30.0
SHAPE = (48, 64, 3)

needs_shm = pytest.mark.skipif(
    not ring_file.is_available(), reason="shared memory needs Linux with /dev/shm"
)


@pytest.fixture
def pair(address, await_true):
    """Makes a publisher and a subscriber that have found each other; both end with the test."""
    with contextlib.ExitStack() as stack:

        def make(cameras=("front",), subscriber_options=None, **options):
            sender = stack.enter_context(Publisher(address, **options))
            receiver = stack.enter_context(Subscriber(address, **(subscriber_options or {})))
            for camera in cameras:
                await_true(lambda camera=camera: sender.wants_frames(camera))
            return sender, receiver

        yield make


def frame(seq=0, camera="front", value=None, shape=SHAPE):
    image = np.full(shape, seq % 251 if value is None else value, np.uint8)
    return Frame(image, 1_700_000_000_000_000_000 + seq, seq, camera)


def result(seq=0, camera="front", n=2):
    boxes = np.tile(np.array([1, 2, 30, 40], np.float32), (n, 1))
    labels = [f"thing {i}" for i in range(80)]
    ids = np.arange(n, dtype=np.int32)
    detections = Detections(boxes, np.linspace(1, 0.5, n, dtype=np.float32), ids, labels)
    classes = Classifications(ids[:, None], np.ones((n, 1), np.float32), labels)
    return Result(Header(camera, seq, 7, 64, 48), detections, classes, {"detect": 5})


def sums(count):
    """The counts of the received messages, which must add up to all of them."""
    fates = ("given", "superseded", "gone", "invalid", "repeated", "unread")
    return sum(count[fate] for fate in fates)


@pytest.mark.parametrize("payload", ["raw", "jpeg", pytest.param("shm", marks=needs_shm)])
def test_a_frame_arrives_as_it_was_sent(pair, payload):
    sender, receiver = pair(payload=payload)
    sent = frame(5)
    assert sender.send_frame(sent)
    got = receiver.receive(WAIT_S)
    assert got.item.header == sent.header
    np.testing.assert_allclose(got.item.image, sent.image, atol=2 if payload == "jpeg" else 0)
    assert not got.item.image.flags.writeable
    assert got.clock == ClockOffset()


@pytest.mark.parametrize("payload", ["raw", "jpeg", pytest.param("shm", marks=needs_shm)])
def test_a_slice_of_an_image_arrives_whole(pair, payload):
    sender, receiver = pair(payload=payload)
    large = np.random.default_rng(0).integers(100, 110, (100, 100, 3), np.uint8)
    sender.send_frame(Frame(large[10:58, 20:84], 1, 1, "front"))
    np.testing.assert_allclose(receiver.receive(WAIT_S).item.image, large[10:58, 20:84], atol=12)


@needs_shm
def test_a_change_of_size_is_followed(pair):
    sender, receiver = pair(payload="shm")
    for seq, shape in enumerate([(48, 64, 3), (480, 640, 3), (24, 32, 3)]):
        sender.send_frame(frame(seq, shape=shape))
        assert receiver.receive(WAIT_S).item.image.shape == shape
    assert len(receiver._rings._readers) == 1  # a ring that is replaced is closed


@pytest.mark.parametrize("n", [0, 3])
def test_a_result_arrives_as_it_was_sent(pair, n, await_true):
    sender, receiver = pair((), {"frames": False, "results": True})
    await_true(lambda: sender.wants_results("front"))
    assert not sender.wants_frames("front")
    sender.send_result(result(4, n=n), ClockOffset(50, 7))
    got = receiver.receive(WAIT_S)
    assert got.item.header == result(4).header
    assert got.item.image is None
    np.testing.assert_array_equal(got.item.detections.boxes, result(4, n=n).detections.boxes)
    assert [got.item.detections.labels[i] for i in got.item.detections.class_ids] == [
        f"thing {i}" for i in range(n)
    ]
    assert got.clock == ClockOffset(50, 7)  # of the stamp's clock, by way of the sender's


def test_frames_without_subscribers_are_neither_encoded_nor_sent(address, monkeypatch):
    def fail(*arguments):
        raise AssertionError("encoded for nobody")

    monkeypatch.setattr(frame_payloads, "encode_jpeg", fail)
    with Publisher(address, payload="jpeg") as sender:
        assert not sender.send_frame(frame())
        assert not sender.send_result(result())
        assert sender.counts == {"frame/front": {"unwanted": 1}, "result/front": {"unwanted": 1}}


def test_a_camera_name_that_is_a_prefix_of_another_is_distinct(address, await_true):
    with Publisher(address, streams=4) as sender, Subscriber(f"{address}?camera=front") as one:
        await_true(lambda: sender.wants_frames("front"))
        for camera in ("front_left", "front/left", "front"):
            sender.send_frame(frame(camera=camera))
        assert one.receive(WAIT_S).item.camera == "front"
        assert one.receive(0) is None
        assert set(one.counts) == {"frame/front"}


def test_every_camera_gets_its_turn(pair, await_true):
    sender, receiver = pair(("a", "b"), {"streams": 8}, streams=8)
    for seq in range(3):
        sender.send_frame(frame(seq, "a"))
    sender.send_frame(frame(0, "b"))
    await_true(lambda: receiver._drain(0.01) or len(receiver._pending) == 2)
    cameras = {receiver.receive(WAIT_S).item.camera for _ in range(2)}
    assert cameras == {"a", "b"}


def test_the_newest_frame_is_returned_and_older_ones_are_counted(pair, await_true):
    sender, receiver = pair((*"a",), {"streams": 16}, streams=16, payload="raw")
    for seq in range(10):
        sender.send_frame(frame(seq, "a"))
    count = receiver.counts["frame/a"]
    await_true(lambda: receiver._drain(0.01) or count["received"] == 10)
    assert receiver.receive(WAIT_S).item.seq == 9
    assert count["superseded"] == 9
    assert sums(count) == count["received"] == sender.counts["frame/a"]["sent"]


@pytest.mark.parametrize("payload", ["raw", pytest.param("shm", marks=needs_shm)])
def test_unread_messages_are_counted_at_close(pair, exchanged, payload):
    sender, receiver = pair(payload=payload)
    exchanged(sender, receiver)
    count = receiver.counts["frame/front"]
    sender.send_frame(frame(1))
    ways = [receiver._endpoint.socket, *receiver._rings.clients.values()]
    assert zmq.zmq_poll([(way, zmq.POLLIN) for way in ways], int(WAIT_S * 1000))
    receiver.close()
    receiver.close()
    assert count["unread"] == 1
    assert count["received"] + count["lost"] == sender.counts["frame/front"]["sent"]
    assert sums(count) == count["received"]


def test_a_queue_never_grows_and_drops_are_counted(pair, exchanged):
    sender, receiver = pair(payload="raw")
    for seq in range(200):
        sender.send_frame(frame(seq, shape=(480, 640, 3)))
    exchanged(sender, receiver, frame(10**6))
    count = receiver.counts["frame/front"]
    assert count["lost"] > 0
    assert count["received"] + count["lost"] == sender.counts["frame/front"]["sent"]
    assert sums(count) == count["received"]


@needs_shm
def test_a_frame_that_left_shared_memory_is_counted_as_gone(pair, await_true):
    sender, receiver = pair(subscriber_options={"streams": 16}, slots=2, streams=16)
    for seq in range(5):
        sender.send_frame(frame(seq))
    ring, _ = sender._payloads.rings._rings["front"]
    for _ in range(2):
        ring.write(frame(99).image)

    def is_gone():
        assert receiver.receive(0.05) is None
        return receiver.counts["frame/front"]["gone"]

    await_true(is_gone)
    sender.send_frame(frame(6))
    assert receiver.receive(WAIT_S).item.seq == 6


@needs_shm
def test_frames_go_inline_while_all_slots_are_in_use(pair):
    sender, receiver = pair(slots=2)
    held = []
    for seq in range(5):
        sender.send_frame(frame(seq))
        held.append(receiver.receive(WAIT_S).item)
    assert [f.seq for f in held] == list(range(5))
    assert all((f.image == f.seq).all() for f in held)
    assert sender.counts["frame/front"]["inline"] == 3


@pytest.mark.parametrize("payload", ["raw", "jpeg", pytest.param("shm", marks=needs_shm)])
def test_a_frame_drawn_in_the_publishers_memory_arrives(pair, payload):
    sender, receiver = pair(payload=payload)
    for seq in range(20):
        image = sender.frame_buffer("front", 48, 64)
        image[:] = seq
        sender.send_frame(Frame(image, 1, seq, "front"))
        got = receiver.receive(WAIT_S).item
        assert got.seq == seq
        np.testing.assert_allclose(got.image, image, atol=2)
    if payload == "shm":
        assert "inline" not in sender.counts["frame/front"]


@needs_shm
@pytest.mark.parametrize("payload", ["auto", "shm"])
def test_full_shared_memory_is_an_error_or_raw_pixels_with_auto(pair, payload, monkeypatch, caplog):
    monkeypatch.setattr(ring_file, "space", lambda: (1000, 2000))
    sender, receiver = pair(payload=payload)
    if payload == "shm":
        with pytest.raises(RunError, match="MiB free"):
            sender.send_frame(frame())
        return
    with caplog.at_level(logging.WARNING):
        for seq in range(3):
            sender.send_frame(frame(seq))
            assert receiver.receive(WAIT_S).item.seq == seq
    assert caplog.text.count("sending raw pixels instead") == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"payload": "pickle"}, "expected auto, raw, jpeg or shm"),
        ({"quality": 0}, "1 to 100"),
        ({"quality": 101}, "1 to 100"),
    ],
    ids=str,
)
def test_a_setting_out_of_its_range_is_refused(address, options, why):
    with pytest.raises(ConfigError, match=why):
        Publisher(address, **options)


def test_shared_memory_is_refused_off_the_machine():
    with pytest.raises(ConfigError, match="does not reach another machine"):
        Publisher("zmq+tcp://*:0", payload="shm")


def test_an_address_off_the_machine_needs_keys():
    for end in (Publisher, Subscriber):
        with pytest.raises(ConfigError, match="--insecure"):
            end("zmq+tcp://192.0.2.1:5555")


@pytest.mark.parametrize("camera", ["", "a b", "a/../b", "x" * 129, "ä"])
def test_an_invalid_camera_name_is_refused_by_the_publisher(address, camera):
    with Publisher(address) as sender, pytest.raises(WireError, match="topic"):
        sender.send_frame(frame(camera=camera))


def test_an_address_in_use_is_an_error(address):
    with Publisher(address), pytest.raises(ConfigError, match="in use by another process"):
        Publisher(address)
    with (
        Publisher("zmq+tcp://127.0.0.1:0") as first,
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        Publisher(f"zmq+{first.endpoint}")


def test_the_socket_of_a_dead_process_is_taken_over(tmp_path, await_true):
    path = tmp_path / "socket"
    with unix.socket(unix.AF_UNIX) as dead:
        dead.bind(str(path))
    with Publisher(f"zmq+ipc://{path}") as sender, Subscriber(f"zmq+ipc://{path}"):
        await_true(lambda: sender.wants_frames("front"))


def test_several_publishers_connect_to_one_subscriber(address, exchanged):
    with (
        Subscriber(f"{address}?bind", streams=4) as receiver,
        Publisher(f"{address}?connect", payload="raw") as one,
        Publisher(f"{address}?connect", payload="raw") as two,
    ):
        for sender, camera in ((one, "a"), (two, "b")):
            assert exchanged(sender, receiver, frame(camera=camera)).item.camera == camera


def test_two_addresses_of_one_publisher_give_each_frame_once(tmp_path):
    address = f"zmq+ipc://{tmp_path}/socket"
    os.symlink(tmp_path / "socket", tmp_path / "other")
    with (
        Publisher(address, payload="raw") as sender,
        Subscriber([address, f"zmq+ipc://{tmp_path}/other"], streams=8) as receiver,
    ):
        seen = []
        count = receiver.counts["frame/front"]
        seq = 0
        while count["repeated"] < 3 and seq < 1000:
            sender.send_frame(frame(seq))
            seq += 1
            got = receiver.receive(0.02)
            seen += [got.item.seq] if got else []
    assert count["repeated"] >= 3
    assert seen == sorted(set(seen))


def test_a_second_subscriber_receives_the_same(pair, address, await_true, exchanged):
    sender, receiver = pair(payload="raw")
    with Subscriber(address) as second:
        exchanged(sender, second)
        sender.send_frame(frame(77))
        for each in (receiver, second):
            assert await_true(lambda each=each: each.receive(0.1)).item.seq in {0, 77}


def test_the_publisher_notices_that_the_last_subscriber_left(pair, await_true):
    sender, receiver = pair()
    receiver.close()
    await_true(lambda: not sender.wants_frames("front"))


def test_another_thread_may_not_send(pair):
    sender, _ = pair()
    caught = []

    def send():
        try:
            sender.send_frame(frame())
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert "thread" in str(caught[0])


def test_closing_is_quick_and_may_be_done_twice(pair):
    sender, receiver = pair(payload="raw")
    for seq in range(10):
        sender.send_frame(frame(seq, shape=(480, 640, 3)))
    before = time.monotonic()
    for end in (sender, receiver, sender, receiver):
        end.close()
    assert time.monotonic() - before < WAIT_S / 2


def test_an_image_above_the_limit_is_refused(pair, await_true):
    sender, receiver = pair(payload="jpeg", subscriber_options={"limits": Limits(max_frame_mb=1)})
    sender.send_frame(frame(1, shape=(600, 800, 3)))

    def is_refused():
        assert receiver.receive(0.05) is None
        return receiver.counts["?"]["invalid"]

    assert await_true(is_refused) == 1


def test_a_publisher_that_connects_queues_nothing_for_an_absent_subscriber(address, await_true):
    def meet(receiver):  # a bound subscriber admits others only while it reads
        await_true(lambda: receiver.receive(0.01) or sender.wants_frames("front"))

    with Publisher(f"{address}?connect", payload="raw") as sender:
        with Subscriber(f"{address}?bind") as receiver:
            meet(receiver)
        await_true(lambda: not sender.wants_frames("front"))
        assert not sender.send_frame(frame(1))
        with Subscriber(f"{address}?bind") as receiver:
            meet(receiver)
            sender.send_frame(frame(2))
            assert receiver.receive(WAIT_S).item.seq == 2
            assert receiver.counts["frame/front"]["lost"] == 0
