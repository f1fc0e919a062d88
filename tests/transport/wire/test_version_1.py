"""Messages of schema version 1, from the bytes that its encoder made."""

from __future__ import annotations

import contextlib

import zmq

from pipeline.transport import Subscriber
from pipeline.transport.wire.frames import frame_of
from pipeline.transport.wire.messages import decode
from pipeline.transport.wire.results import result_of
from pipeline.transport.wire.schema import Limits
from pipeline.types import Header, Result

LIMITS = Limits()
HEADER = Header("front", 5, 1_700_000_000_000_000_000, 3, 2)
WAIT_S = 30.0

# Bytes of the encoder of schema version 1, as publishers of that version send them.
V1_FRAME = [
    b"frame/front",
    b"\x8e\xa7version\x01\xa6sender\x07\xa5count\x03\xa6camera\xa5front\xa3seq\x05\xa8stamp_ns"
    b"\xcf\x17\x97\x9c\xfe6*\x00\x00\xa7sent_ns\xcf\x17\x97\x9c\xfe6*\x00d\xa9steady_nsd\xaaclock_port"
    b"\x00\xafclock_offset_ns\xfb\xaeclock_error_ns\x03\xa5width\x03\xa6height\x02\xa4kind\xa3raw",
    bytes(range(18)),
]
V1_RESULT = [
    b"result/front",
    b"\xde\x00\x14\xa7version\x01\xa6sender\x07\xa5count\x03\xa6camera\xa5front\xa3seq\x05\xa8stamp_ns"
    b"\xcf\x17\x97\x9c\xfe6*\x00\x00\xa7sent_ns\xcf\x17\x97\x9c\xfe6*\x00d\xa9steady_nsd\xaaclock_port"
    b"\x00\xafclock_offset_ns\xfb\xaeclock_error_ns\x03\xa5width\x03\xa6height\x02\xa7objects\x01"
    b"\xa7classes\x02\xa6labels\x81\x01\xa3cup\xa3top\x01\xadfiner_classes\x05\xacfiner_labels\x81"
    b"\x04\xa6kind 4\xa8stage_ns\x81\xa6detect\t",
    b"\0\0\0\0\0\0\0\0\0\0\0@\0\0\x80?\0\0\0?\1\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\4\0\0\0\0\0\x80>",
]


def no_slot(reference, shape):
    raise AssertionError("nothing is in shared memory")


def test_a_frame_of_version_1_is_read():
    got = frame_of(decode(V1_FRAME, LIMITS), no_slot)
    assert got.header == HEADER
    assert got.image.tobytes() == bytes(range(18))
    assert got.planes == {}


def test_a_result_of_version_1_is_read():
    got = result_of(decode(V1_RESULT, LIMITS))
    assert got.header == HEADER
    assert got.detections.boxes.tolist() == [[0, 0, 2, 1]]
    assert [got.detections.labels[i] for i in got.detections.class_ids] == ["cup"]
    assert [got.classifications.labels[i] for i in got.classifications.ids[0]] == ["kind 4"]
    assert got.stage_ns == {"detect": 9}


def test_a_subscriber_receives_from_a_publisher_of_version_1(address, await_true):
    with (
        Subscriber(f"{address}?bind", results=True) as receiver,
        zmq.Context() as context,
        contextlib.closing(context.socket(zmq.PUB)) as publisher,
    ):
        publisher.linger = 0
        publisher.connect(address.removeprefix("zmq+"))
        received = await_true(lambda: publisher.send_multipart(V1_FRAME) or receiver.receive(0.05))
        assert received.item.header == HEADER
        while not isinstance(received.item, Result):
            publisher.send_multipart(V1_RESULT)
            received = receiver.receive(WAIT_S)
        assert received.item.header == HEADER
        assert receiver.counts["?"]["invalid"] == 0
