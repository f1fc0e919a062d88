"""Messages as a peer that is not this program could send them, and a socket to send them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

PIXELS = bytes(48 * 64 * 3)


def envelope(**fields: Any) -> dict[str, Any]:
    """The header of a valid message, with `fields` in place of the usual ones."""
    now_ns = time.time_ns()
    return {
        "version": 2,
        "sender": 1,
        "count": 0,
        "camera": "front",
        "seq": 0,
        "stamp_ns": now_ns,
        "sent_ns": now_ns,
        "steady_ns": time.monotonic_ns(),
        "width": 64,
        "height": 48,
        **fields,
    }


def frame_message(payload: bytes = PIXELS, kind: str = "raw", **fields: Any) -> list[bytes]:
    """The parts of a frame."""
    header = envelope(kind=kind, **fields)
    return [f"frame/{header['camera']}".encode(), msgspec.msgpack.encode(header), payload]


def result_message(**fields: Any) -> list[bytes]:
    """The parts of a result without objects."""
    header = envelope(objects=0, classes=0, **fields)
    return [f"result/{header['camera']}".encode(), msgspec.msgpack.encode(header), b""]


@contextlib.contextmanager
def peer(address: str) -> Iterator[zmq.Socket[bytes]]:
    """A bare socket that is connected to a subscriber which has bound `address`."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.linger = 0
        socket.sndhwm = 1000
        socket.connect(address.removeprefix("zmq+").partition("?")[0])
        yield socket
