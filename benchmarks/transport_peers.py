"""The processes of `make bench-transport`: one sends pictures or takes them in, some way.

`python -m benchmarks.transport_peers ROLE WAY ADDRESS CONTROL` with ROLE `send` or `receive` does
what it is told over the Unix socket CONTROL, until that closes. Times are those of the monotonic
clock, which the processes of one machine share: a picture carries the time at which the call that
sends it began, and has arrived when it is there as an array.
"""

from __future__ import annotations

import itertools
import sys
import time
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np

from benchmarks.transport_ways import RECEIVERS, SENDERS, SHAPE, Receive, Send
from pipeline.sources import open_source
from pipeline.types import Image


def main(role: str, way: str, address: str, control: str) -> None:
    with Client(control, "AF_UNIX") as connection:
        connection.send((role, way))
        try:
            if role == "send":
                serve_sender(SENDERS[way](address), connection)
            else:
                serve_receiver(RECEIVERS[way](address), connection)
        except (EOFError, ConnectionError):
            return


def serve_sender(send: Send, connection: Connection) -> None:
    """Send at the pace and for the time that it is told, and say how that went."""
    pictures = itertools.cycle(images())
    spare = np.zeros(SHAPE, np.uint8)
    send(next(pictures), 0)
    while True:
        job, fps, seconds = connection.recv()
        if job == "copy":
            connection.send(measure_copies(pictures, spare, fps, seconds))
        else:
            connection.send(send_for(send, pictures, fps, seconds))


def send_for(send: Send, pictures: Any, fps: float, seconds: float) -> dict[str, Any]:
    cpu_s, start_ns, sent = time.process_time(), time.monotonic_ns(), 0
    while time.monotonic_ns() - start_ns < seconds * 1e9:
        image = next(pictures)
        send(image, time.monotonic_ns())
        sent += 1
        pause(start_ns, sent, fps)
    end_ns = time.monotonic_ns()
    used_s = time.process_time() - cpu_s
    return {"sent": sent, "start_ns": start_ns, "end_ns": end_ns, "cpu_s": used_s}


def measure_copies(pictures: Any, spare: Image, fps: float, seconds: float) -> list[int]:
    """Nanoseconds that copies of a picture take at the same pace, into memory that is there."""
    start_ns, took = time.monotonic_ns(), []
    while time.monotonic_ns() - start_ns < seconds * 1e9:
        image = next(pictures)
        before_ns = time.monotonic_ns()
        np.copyto(spare, image)
        took.append(time.monotonic_ns() - before_ns)
        pause(start_ns, len(took), fps)
    return took


def pause(start_ns: int, done: int, fps: float) -> None:
    if fps:
        time.sleep(max(start_ns + done / fps * 1e9 - time.monotonic_ns(), 0) / 1e9)


def serve_receiver(receive: Receive, connection: Connection) -> None:
    """Take in what comes; where nothing does, look whether to tell of it."""
    arrivals: list[tuple[int, int]] = []
    while True:
        sent_ns = receive()
        if sent_ns is not None:
            arrivals.append((sent_ns, time.monotonic_ns()))
        elif connection.poll():
            connection.recv()
            connection.send(arrivals)
            arrivals = []


def images() -> list[Image]:
    """A few pictures in turn, as a camera has a few buffers."""
    with open_source(f"scene:?size={SHAPE[1]}x{SHAPE[0]}&fps=0") as source:
        return [frame.image for _ in range(6) if (frame := source.read()) is not None]


if __name__ == "__main__":
    main(*sys.argv[1:])
