"""Coverage-guided fuzzing of everything that reads what came over the wire.

`python tests/fuzz/fuzz_wire.py [-runs=1000000] [-max_total_time=SECONDS] [CORPUS]`; needs atheris.
The first byte of an input says what the rest is: three parts of a message, each with its length in
two bytes, or a JPEG, a question to the clock, or a reference into shared memory. Anything that is
raised beside `WireError` and `Gone` ends the run, as does growth beyond `MAX_GROWTH_MB`.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris

with atheris.instrument_imports(include=["pipeline.transport"]):
    from pipeline.transport import payload, wire, wire_result
    from pipeline.transport.shared_memory import Gone, RingReader

MAX_GROWTH_MB = 200
LIMITS = wire.Limits(max_frame_mb=1)
PICTURE = {
    "version": 1,
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
JPEG_HEADER = wire.FrameHeader(**PICTURE, kind="jpeg")


def split(data: bytes) -> list[bytes]:
    """Parts with two bytes of length before each; the last takes what is left."""
    parts = []
    while len(data) > 2 and len(parts) < 5:
        size = int.from_bytes(data[:2], "little")
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


def join(parts: list[bytes]) -> bytes:
    """The input that splits into these parts."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


def read_message(data: bytes) -> None:
    message = wire.decode(split(data), LIMITS)
    if isinstance(message, wire.ResultMessage):
        wire_result.result_of(message)
    elif message.reference is not None:
        RingReader(message.reference.ring)
    elif message.header.kind == "raw":
        payload.decode_raw(message.header, message.payload)
    else:
        payload.decode_jpeg(message.header, message.payload)


def read_header(data: bytes) -> None:
    """The same with a topic that fits, so that the search need not find it."""
    for topic in (b"frame/c", b"result/c"):
        with contextlib.suppress(wire.WireError):
            read_message(join([topic, data[:4000], data[4000:]]))


def read_jpeg(data: bytes) -> None:
    payload.decode_jpeg(JPEG_HEADER, memoryview(data))


READERS = [read_message, read_header, read_jpeg]


def seeds() -> list[bytes]:
    """Whole messages to begin with."""
    raw = msgspec.msgpack.encode({**PICTURE, "kind": "raw"})
    jpeg = msgspec.msgpack.encode({**PICTURE, "kind": "jpeg"})
    shm = msgspec.msgpack.encode({**PICTURE, "kind": "shm"})
    reference = {"ring": "1-0123456789abcdef", "slot": 0, "generation": 1}
    result = msgspec.msgpack.encode(
        {**PICTURE, "objects": 1, "classes": 2, "labels": {1: "cup"}, "top": 1, "stage_ns": {}}
    )
    picture = payload.encode_jpeg(payload.np.zeros((16, 16, 3), payload.np.uint8))
    return [
        b"\0" + join([b"frame/c", raw, bytes(768)]),
        b"\0" + join([b"frame/c", jpeg, picture]),
        b"\0" + join([b"frame/c", shm, msgspec.msgpack.encode(reference)]),
        b"\0" + join([b"result/c", result, bytes(40)]),
        b"\1" + raw,
        b"\1" + result,
        b"\2" + picture,
    ]


def resident_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Target:
    """Runs one input, and watches the memory."""

    def __init__(self) -> None:
        self._most_mb = resident_peak_mb() + MAX_GROWTH_MB
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(wire.WireError, Gone):
            READERS[data[0] % len(READERS)](data[1:])
        self._runs += 1
        if self._runs % 10_000 == 0 and resident_peak_mb() > self._most_mb:
            raise MemoryError(f"grew by more than {MAX_GROWTH_MB} MB in {self._runs} inputs")


def main(arguments: list[str]) -> None:
    corpus = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if corpus:
        folder = Path(corpus[0])
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
    for seed in seeds():
        Target()(seed)
    atheris.Setup(arguments, Target())
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
