"""The ways to bring pictures into another process: ours, imagezmq's and dora-rs's.

Each gives a function that sends a picture with the time of the call, and one that waits a moment
for a picture and gives its time back. The others are used as their documentation shows, but with
our JPEG encoder. As theirs do, our receivers take every picture that comes, where `vision` itself
takes the newest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import zmq

from pipeline.transport import Publisher
from pipeline.transport.wire.frames import encode_jpeg
from pipeline.transport.zmq.receiver import Receiver
from pipeline.types import Frame, Image

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
    """Of a camera that draws in the publisher's memory: the time begins when it is drawn."""
    publisher = Publisher(address, payload="shm")
    seqs = itertools.count()

    def send(image: Image, ns: int) -> None:
        buffer = publisher.frame_buffer("camera", *SHAPE[:2])
        np.copyto(buffer, image)
        publisher.send_frame(Frame(buffer, time.monotonic_ns(), next(seqs), "camera"))

    return send


def our_receiver(address: str) -> Receive:
    """What a `FrameSubscription` reads from, with a time limit and for every picture."""
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
