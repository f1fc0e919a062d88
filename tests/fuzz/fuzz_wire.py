"""Fuzzing of everything that reads messages.

`python tests/fuzz/fuzz_wire.py [-runs=1000000] [-max_total_time=SECONDS] [CORPUS]`, guided by
coverage if atheris is installed.
The first byte of an input selects the reader of the rest: the parts of a message, each with its
length in two bytes; a header; a JPEG; subscriptions and requests at a publisher; the results of
several detectors; a request to a clock or its answer; a notification past ZeroMQ. Any exception but
`WireError` and `Gone` ends the run, as does growth beyond `MAX_GROWTH_MB`.
"""

from __future__ import annotations

import contextlib
import resource
import struct
import sys
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import fuzzing

with fuzzing.instrument("pipeline.transport"):
    from pipeline.transport import clock
    from pipeline.transport.shm import rings
    from pipeline.transport.shm.ring import Gone, RingReader
    from pipeline.transport.wire import frames, messages, results, schema
    from pipeline.transport.zmq import worker_groups
    from pipeline.transport.zmq.pending import Pending
    from pipeline.transport.zmq.reorder import ResultOrder
    from pipeline.transport.zmq.stream_counts import MAX_GAP, MAX_STREAMS, Streams

from pipeline.types import Detections, Header, Result

MAX_GROWTH_MB = 200
LIMITS = schema.Limits(max_frame_mb=1)
ENVELOPE = {
    "version": 2,
    "sender": 1,
    "count": 0,
    "camera": "c",
    "seq": 0,
    "stamp_ns": 1,
    "sent_ns": 1,
    "steady_ns": 1,
    "width": 16,
    "height": 16,
}
JPEG_HEADER = schema.FrameHeader(**ENVELOPE, kind="jpeg")
PLANE = bytes(512)
MEMBER = b"turn/g/0123456789abcdef/frame/"
CLAIM = struct.Struct("<BbqI")  # sender, camera, stamp and number of a result
NOW_NS = 1_700_000_000_000_000_000


def split(data: bytes, most: int = 12) -> list[bytes]:
    """Parts with two bytes of length before each; the last takes what is left."""
    parts: list[bytes] = []
    while len(data) > 2 and len(parts) < most:
        size = int.from_bytes(data[:2], "little")
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


def join(parts: list[bytes]) -> bytes:
    """The input that splits into these parts."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


def read_message(data: bytes) -> None:
    message = messages.decode(split(data), LIMITS)
    connection, camera = len(data) % 5, message.header.camera
    if isinstance(message, messages.EndMessage):
        STREAMS.end(camera, message.header, connection)
        return
    stream = STREAMS.admit(camera, message.header, connection, lambda: "192.0.2.1")
    expect(len(STREAMS.counts) <= MAX_STREAMS + 1)
    if stream is not None:
        expect(0 <= stream.count["lost"] <= MAX_GAP * stream.count["received"])
        PENDING.add(stream, message, len(data))
        expect(len(PENDING) <= MAX_STREAMS)
    if isinstance(message, messages.ResultMessage):
        results.result_of(message)
        return
    frame = frames.frame_of(message, read_slot)
    expect(frame.image.nbytes + sum(p.nbytes for p in frame.planes.values()) <= 1 << 20)


def read_slot(reference: schema.SharedReference, shape: tuple[int, ...]) -> np.ndarray:
    """Memory of the shape that is asked for, after an attempt to read the reference."""
    with contextlib.suppress(Gone):
        RingReader(reference.ring)
    return np.zeros(shape, np.uint8)


def read_header(data: bytes) -> None:
    """The same with a topic that fits, so that the search need not find it."""
    for topic in (b"frame/c", b"result/c"):
        for parts in ([data[:4000]], [data[:4000], data[4000:]], [data[:4000], bytes(768), PLANE]):
            with contextlib.suppress(schema.WireError):
                read_message(join([topic, *parts]))


def read_jpeg(data: bytes) -> None:
    frames.decode_jpeg(JPEG_HEADER, memoryview(data))


def read_subscriptions(data: bytes) -> None:
    """What a publisher receives: subscriptions, their ends, and requests for frames."""
    group = worker_groups.WorkerGroups()
    for message in [*split(data, 30), worker_groups.ready_message(MEMBER, len(data) % 7)]:
        if message[:1] == b"\1":
            group.join("c", message[1:])
        elif message[:1] == b"\0":
            group.leave("c", message[1:])
        else:
            group.note_ready("c", message)
        for name, topic in group.choose(b"frame/c"):
            expect(not topic or topic.startswith(f"turn/{name}/".encode()))
            expect(not topic or topic.endswith(b"/frame/c"))


def read_order(data: bytes) -> None:
    """What a viewer puts in order: results with any sender, camera, stamp and number."""
    sequence, given, last = ResultOrder(hold_s=float(data[0] % 2) if data else 0.0), 0, {}
    claims = list(CLAIM.iter_unpack(data[: len(data) // CLAIM.size * CLAIM.size]))
    for sender, camera, stamp_ns, seq in claims:
        header = Header(f"c{camera % 50}", seq, abs(stamp_ns), 16, 16)
        found = Result(header, Detections.empty(()), stage_ns={"sender": sender})
        sequence.put(sender, found)
        while (result := sequence.get()) is not None:
            given, now = given + 1, result.header
            before = last.get((result.stage_ns["sender"], now.camera))
            expect(before is None or now.seq > before.seq or now.stamp_ns > before.stamp_ns)
            last[result.stage_ns["sender"], now.camera] = now
    expect(given + sequence.late <= len(claims))


def read_clock(data: bytes) -> None:
    """A request to a clock server, and the same bytes as answers to a client."""
    answer = clock.answer_to(data, lambda: NOW_NS)
    estimator = clock.OffsetFilter()
    for number, part in enumerate([data, answer, *split(data, 30)]):
        sample = clock.read_answer(part, NOW_NS + number)
        if sample is not None:
            estimator.add(sample, number)
    estimate = estimator.estimate(10**9)
    expect(estimate is None or (abs(estimate.offset_ns) <= 2**62 and estimate.error_ns < 2**63))


class OnePacket:
    """A socket from which one packet comes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, most: int) -> bytes:
        return self._data[:most]

    def close(self) -> None:
        """Nothing is open."""


def read_notification(data: bytes) -> None:
    """A notification, which comes past ZeroMQ between the processes of one machine."""
    parts = rings.NotifyClient(OnePacket(data)).receive()
    if parts is not None:
        messages.decode(parts, LIMITS)


def expect(holds: bool) -> None:
    if not holds:
        raise RuntimeError("an expectation does not hold")


STREAMS = Streams()
PENDING = Pending(2, 100_000)
READERS = [
    *(read_message, read_header, read_jpeg, read_subscriptions),
    *(read_order, read_clock, read_notification),
]


def seeds() -> list[bytes]:
    """Valid inputs to begin with."""
    raw = msgspec.msgpack.encode({**ENVELOPE, "kind": "raw"})
    jpeg = msgspec.msgpack.encode({**ENVELOPE, "kind": "jpeg"})
    shm = msgspec.msgpack.encode({**ENVELOPE, "kind": "shm"})
    reference = {"ring": "1-0123456789abcdef", "slot": 0, "generation": 1}
    result = msgspec.msgpack.encode(
        {**ENVELOPE, "objects": 1, "classes": 2, "labels": {1: "cup"}, "top": 1, "stage_ns": {}}
    )
    depth = {"name": "depth", "dtype": "uint16", "shape": [16, 16], "unit": "mm"}
    flow = {"name": "flow", "dtype": "float16", "shape": [16, 16, 2]}
    planes = [{**ENVELOPE, "kind": kind, "planes": [depth, flow]} for kind in ("raw", "shm")]
    raw_planes, shm_planes = map(msgspec.msgpack.encode, planes)
    end = msgspec.msgpack.encode({"version": 2, "sender": 1, "sent": 3, "camera": "c"})
    old = msgspec.msgpack.encode({**ENVELOPE, "version": 1, "kind": "raw"})
    jpeg_image = frames.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    question = b"visclk01" + NOW_NS.to_bytes(8, "little")
    answer = clock.answer_to(question, lambda: NOW_NS)
    return [
        b"\0" + join([b"frame/c", raw, bytes(768)]),
        b"\0" + join([b"frame/c", jpeg, jpeg_image]),
        b"\0" + join([b"frame/c", shm, msgspec.msgpack.encode(reference)]),
        b"\0" + join([b"result/c", result, bytes(40)]),
        b"\0" + join([b"frame/c", old, bytes(768)]),
        b"\0" + join([b"frame/c", raw_planes, bytes(768), bytes(512), bytes(1024)]),
        b"\0" + join([b"frame/c", shm_planes, msgspec.msgpack.encode(reference)]),
        b"\0" + join([b"frame/c", end]),
        b"\1" + raw,
        b"\1" + end,
        b"\1" + result,
        b"\2" + jpeg_image,
        b"\3" + join([b"\1" + MEMBER, worker_groups.ready_message(MEMBER, 0), b"\0" + MEMBER]),
        b"\4" + b"".join(CLAIM.pack(seq % 2, 0, seq, seq) for seq in (0, 2, 1, 3)),
        b"\5" + question,
        b"\5" + join([answer, answer]),
        b"\6" + struct.pack("<2H", 7, len(shm)) + b"frame/c" + shm,
    ]


def resident_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Target:
    """Runs one input and checks the memory."""

    def __init__(self) -> None:
        self._most_mb = resident_peak_mb() + MAX_GROWTH_MB
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(schema.WireError, Gone):
            READERS[data[0] % len(READERS)](data[1:])
        self._runs += 1
        if self._runs % 10_000 == 0 and resident_peak_mb() > self._most_mb:
            raise MemoryError(f"grew by more than {MAX_GROWTH_MB} MB in {self._runs} inputs")


if __name__ == "__main__":
    fuzzing.main(sys.argv, Target(), seeds())
