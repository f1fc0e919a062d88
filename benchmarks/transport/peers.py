"""The processes of `make bench-transport`, which send and receive images in one of several ways.

`python -m benchmarks.transport.peers ROLE WAY ADDRESS CONTROL` with ROLE `send` or `receive` obeys
commands over the Unix socket CONTROL until that closes. Times are those of the monotonic clock,
which the processes of one machine share: an image carries the time at which the call that sends it
began, and has arrived when it is available as an array.

A way is a function that sends an image with the time of the call, and one that waits briefly for
an image and returns its time. The others (imagezmq, dora-rs) are used as their documentation shows,
but with our JPEG encoder. Like theirs, our receivers take every image, while `vision` itself takes
the newest.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np
import zmq

from pipeline.sources import open_source
from pipeline.transport import Publisher
from pipeline.transport.wire.frames import encode_jpeg
from pipeline.transport.zmq.receiver import Receiver
from pipeline.types import Frame, Image


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
    """Send at the requested rate and for the requested time, and report the outcome."""
    cycle = itertools.cycle(images())
    spare = np.zeros(SHAPE, np.uint8)
    send(next(cycle), 0)
    while True:
        job, fps, seconds = connection.recv()
        if job == "copy":
            connection.send(measure_copies(cycle, spare, fps, seconds))
        else:
            connection.send(send_for(send, cycle, fps, seconds))


def send_for(send: Send, cycle: Any, fps: float, seconds: float) -> dict[str, Any]:
    cpu_s, start_ns, sent = time.process_time(), time.monotonic_ns(), 0
    while time.monotonic_ns() - start_ns < seconds * 1e9:
        image = next(cycle)
        send(image, time.monotonic_ns())
        sent += 1
        pause(start_ns, sent, fps)
    end_ns = time.monotonic_ns()
    used_s = time.process_time() - cpu_s
    return {"sent": sent, "start_ns": start_ns, "end_ns": end_ns, "cpu_s": used_s}


def measure_copies(cycle: Any, spare: Image, fps: float, seconds: float) -> list[int]:
    """Nanoseconds that copies of an image take at the same rate, into allocated memory."""
    start_ns, took = time.monotonic_ns(), []
    while time.monotonic_ns() - start_ns < seconds * 1e9:
        image = next(cycle)
        before_ns = time.monotonic_ns()
        np.copyto(spare, image)
        took.append(time.monotonic_ns() - before_ns)
        pause(start_ns, len(took), fps)
    return took


def pause(start_ns: int, done: int, fps: float) -> None:
    if fps:
        time.sleep(max(start_ns + done / fps * 1e9 - time.monotonic_ns(), 0) / 1e9)


def serve_receiver(receive: Receive, connection: Connection) -> None:
    """Receive images; when none comes, check for a request to report."""
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
    """A few images, as a camera has a few buffers."""
    with open_source(f"scene:?size={SHAPE[1]}x{SHAPE[0]}&fps=0") as source:
        return [frame.image for _ in range(6) if (frame := source.read()) is not None]


SHAPE = (720, 1280, 3)
QUALITY = 85
IDLE_S = 0.1

Send = Callable[[Image, int], object]
Receive = Callable[[], int | None]


def our_sender(address: str, payload: Any) -> Send:
    publisher = Publisher(address, payload=payload, quality=QUALITY)
    seqs = itertools.count()
    return lambda image, ns: publisher.send_frame(Frame(image, ns, next(seqs), "camera"))


def drawing_sender(address: str) -> Send:
    """Images drawn in the publisher's memory: the time begins when they are drawn."""
    publisher = Publisher(address, payload="shm")
    seqs = itertools.count()

    def send(image: Image, ns: int) -> None:
        buffer = publisher.frame_buffer("camera", *SHAPE[:2])
        np.copyto(buffer, image)
        publisher.send_frame(Frame(buffer, time.monotonic_ns(), next(seqs), "camera"))

    return send


def our_receiver(address: str) -> Receive:
    """Receives every image as a `FrameSubscription` does, with a time limit."""
    subscription = Receiver(address, every=True)

    def receive() -> int | None:
        received = subscription.receive(IDLE_S)
        return received.item.stamp_ns if received is not None else None

    return receive


def imagezmq_sender(address: str, reply: bool, jpeg: bool) -> Send:
    imagezmq = import_module("imagezmq")

    sender = imagezmq.ImageSender(address, REQ_REP=reply)
    if jpeg:
        return lambda image, ns: sender.send_jpg(str(ns), encode_jpeg(image, QUALITY))
    return lambda image, ns: sender.send_image(str(ns), image)


def imagezmq_receiver(address: str, reply: bool, jpeg: bool) -> Receive:
    imagezmq = import_module("imagezmq")
    simplejpeg = import_module("simplejpeg")

    hub = imagezmq.ImageHub(address, REQ_REP=reply)
    hub.zmq_socket.rcvtimeo = int(IDLE_S * 1000)

    def receive() -> int | None:
        try:
            text, data = hub.recv_jpg() if jpeg else hub.recv_image()
        except zmq.Again:
            return None
        if reply:
            hub.send_reply()
        if jpeg:
            simplejpeg.decode_jpeg(data, colorspace="BGR")
        return int(text)

    return receive


def dora_sender(address: str) -> Send:
    dora = import_module("dora")
    pyarrow = import_module("pyarrow")

    node = dora.Node()
    return lambda image, ns: node.send_output("image", pyarrow.array(image.ravel()), {"ns": ns})


def dora_receiver(address: str) -> Receive:
    dora = import_module("dora")

    node = dora.Node()

    def receive() -> int | None:
        event = node.next(IDLE_S)
        if event is None or event["type"] != "INPUT":
            return None
        np.asarray(event["value"].to_numpy()).reshape(SHAPE)
        return int(event["metadata"]["ns"])

    return receive


SENDERS: dict[str, Callable[[str], Send]] = {
    "shm": partial(our_sender, payload="shm"),
    "shm, drawn in place": drawing_sender,
    "raw": partial(our_sender, payload="raw"),
    "jpeg": partial(our_sender, payload="jpeg"),
    "imagezmq REQ/REP": partial(imagezmq_sender, reply=True, jpeg=False),
    "imagezmq PUB/SUB": partial(imagezmq_sender, reply=False, jpeg=False),
    "imagezmq JPEG REQ/REP": partial(imagezmq_sender, reply=True, jpeg=True),
    "imagezmq JPEG PUB/SUB": partial(imagezmq_sender, reply=False, jpeg=True),
    "dora": dora_sender,
}
RECEIVERS: dict[str, Callable[[str], Receive]] = {
    "shm": our_receiver,
    "shm, drawn in place": our_receiver,
    "raw": our_receiver,
    "jpeg": our_receiver,
    "imagezmq REQ/REP": partial(imagezmq_receiver, reply=True, jpeg=False),
    "imagezmq PUB/SUB": partial(imagezmq_receiver, reply=False, jpeg=False),
    "imagezmq JPEG REQ/REP": partial(imagezmq_receiver, reply=True, jpeg=True),
    "imagezmq JPEG PUB/SUB": partial(imagezmq_receiver, reply=False, jpeg=True),
    "dora": dora_receiver,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
