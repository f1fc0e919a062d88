"""Planes of frames, and the times of recorded ones, from process to process."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.transport import Limits, Publisher, Subscriber, WireError
from pipeline.transport.shm import ring_file
from pipeline.types import Detections, Frame, Result

WAIT_S = 30.0

needs_shm = pytest.mark.skipif(
    not ring_file.is_available(), reason="shared memory needs Linux with /dev/shm"
)
KINDS = ["raw", "jpeg", pytest.param("shm", marks=needs_shm)]


def depth_frame(seq=0, shape=(480, 640)):
    image = np.full((*shape, 3), seq % 251, np.uint8)
    depth = np.full(shape, seq, np.float32)
    depth[0, 0] = np.nan  # not measured
    flow = np.full((*shape, 2), -seq, np.int16)
    return Frame(image, time.time_ns(), seq, "front", {"depth": depth, "flow": flow})


@pytest.mark.parametrize("payload", KINDS)
def test_planes_arrive_with_their_image(address, await_true, payload):
    with Publisher(address, payload=payload) as sender, Subscriber(address) as receiver:
        await_true(lambda: sender.wants_frames("front"))
        for seq, shape in enumerate([(480, 640), (481, 641), (48, 64)] * 4):
            sent = depth_frame(seq, shape)
            sender.send_frame(sent)
            got = receiver.receive(WAIT_S).item
            np.testing.assert_allclose(got.image, sent.image, atol=2 if payload == "jpeg" else 0)
            assert list(got.planes) == ["depth", "flow"]
            for name, plane in sent.planes.items():
                np.testing.assert_array_equal(got.planes[name], plane)
                assert not got.planes[name].flags.writeable


@needs_shm
def test_planes_in_shared_memory_are_not_copied_and_hold_their_slot(address, exchanged):
    with Publisher(address, payload="shm", slots=3) as sender, Subscriber(address) as receiver:
        depth = exchanged(sender, receiver, depth_frame(7)).item.planes["depth"]
        (reader,) = receiver._rings._readers.values()
        assert np.shares_memory(depth, reader._bytes)
        for seq in range(100):
            sender.send_frame(depth_frame(seq))
            receiver.receive(0.01)
        assert (depth[1:] == 7).all()


@needs_shm
def test_an_image_in_lent_memory_is_sent_with_its_planes(address, exchanged):
    with Publisher(address, payload="shm") as sender, Subscriber(address) as receiver:
        exchanged(sender, receiver, depth_frame(0))
        for seq in range(10):
            image = sender.frame_buffer("front", 480, 640)
            image[:] = seq
            planes = {"depth": np.full((480, 640), seq, np.uint16)}
            sender.send_frame(Frame(image, 1, seq, "front", planes))
            got = receiver.receive(WAIT_S).item
            assert (got.image == seq).all()
            assert (got.planes["depth"] == seq).all()


@needs_shm
def test_planes_go_inline_with_their_image_if_all_slots_are_in_use(address, await_true):
    with (
        Publisher(address, payload="shm", slots=2) as sender,
        Subscriber(address) as receiver,
    ):
        await_true(lambda: sender.wants_frames("front"))
        held = []
        for seq in range(4):
            sender.send_frame(depth_frame(seq))
            held.append(receiver.receive(WAIT_S).item)
        assert all((item.planes["depth"][1:] == item.seq).all() for item in held)
        assert sender.counts["frame/front"]["inline"] == 2


def test_a_frame_whose_planes_exceed_the_limit_is_refused(address, await_true):
    with (
        Publisher(address, payload="raw") as sender,
        Subscriber(address, limits=Limits(max_frame_mb=2)) as receiver,
    ):
        await_true(lambda: sender.wants_frames("front"))

        def is_refused():
            sender.send_frame(depth_frame())  # 0.9 MB of pixels and 2.5 MB of planes
            assert receiver.receive(0.05) is None
            return receiver.counts["?"]["invalid"]

        assert await_true(is_refused)


def test_a_plane_that_cannot_be_sent_is_refused_by_the_publisher(address, await_true):
    image = np.zeros((48, 64, 3), np.uint8)
    planes = {"mask": np.zeros((48, 64), bool)}
    with Publisher(address) as sender, Subscriber(address):
        await_true(lambda: sender.wants_frames("front"))
        with pytest.raises(WireError, match="plane 'mask' must have"):
            sender.send_frame(Frame(image, 1, 0, "front", planes))


@pytest.mark.parametrize("results", [False, True], ids=["frame", "result"])
def test_recorded_frames_keep_their_stamp_and_age_from_their_read_time(
    address, await_true, results
):
    read_ns = time.time_ns()
    image = np.zeros((48, 64, 3), np.uint8)
    sent = Frame(image, 77, 0, "front", read_ns=read_ns, recorded=True)
    with (
        Publisher(address) as sender,
        Subscriber(address, frames=not results, results=results) as receiver,
    ):
        await_true(sender.has_subscribers)
        sender.send_frame(sent)
        sender.send_result(Result(sent.header, Detections.empty(())))
        got = receiver.receive(WAIT_S)
    assert got.item.header == sent.header
    assert got.item.header.age_start_ns == read_ns
    assert got.age_ns() < 3600e9  # not since 1970
