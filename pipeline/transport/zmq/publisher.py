"""Sends frames and results to whoever has subscribed to them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import threading
import time
from collections import Counter
from typing import Any, Literal

import numpy as np
import zmq

from pipeline.errors import ConfigError, RunError
from pipeline.transport.address import Address, parse_address
from pipeline.transport.clock import ClockServer
from pipeline.transport.shm import ring as shared_memory
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.notify import LineServer
from pipeline.transport.wire import messages as wire
from pipeline.transport.wire.messages import FrameHeader, ResultHeader, SharedReference, WireError
from pipeline.transport.wire.pixels import DEFAULT_QUALITY, encode_jpeg, encode_raw
from pipeline.transport.wire.results import result_fields, result_payload
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.sockets import QUEUED, Endpoint, is_readable
from pipeline.transport.zmq.worker_groups import Turns
from pipeline.types import SAME_CLOCK, ClockOffset, Frame, Header, Image, Result

PayloadKind = Literal["auto", "raw", "jpeg", "shm"]
Kind = Literal["raw", "jpeg", "shm"]
NO_COPY_BYTES = 16384  # from this size on, handing memory over is cheaper than copying it
GO_AHEAD_S = 0.001
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
MAX_SUBSCRIPTION = 1024  # bytes; all that a subscriber may send
MAX_SUBSCRIPTIONS = 1000

log = logging.getLogger(__name__)


class Publisher:
    """Publishes frames and results at an address, until it is closed.

    Every subscriber gets every frame, but of the members of a group each frame goes to one.

    - `payload`: how pixels travel: `raw`, `jpeg`, `shm` (shared memory), or `auto`: shared memory
      where the address cannot be reached from another machine, JPEG where it can
    - `quality`: of JPEG, 1 to 100
    - `streams`: how many cameras' frames and results are sent here, so that the queue to each
      subscriber has room for the newest of all
    - `slots`: how many pictures a ring in shared memory holds

    It belongs to the thread that made it. Nothing is encoded or sent that nobody has subscribed to,
    and nobody is waited for: what a subscriber is too slow for is dropped on the way to it.
    `counts` holds for each topic what was `sent`, what was `unwanted`, and which pictures went
    `inline` because all of shared memory was being looked at; for a group, under
    `turn/GROUP/frame/CAMERA`, what was `sent` to its members and when all of them were `busy`.

    Raises `ConfigError` where the address cannot be used or needs keys.
    """

    def __init__(
        self,
        address: str,
        *,
        payload: PayloadKind = "auto",
        quality: int = DEFAULT_QUALITY,
        streams: int = 1,
        slots: int = shared_memory.DEFAULT_SLOTS,
        security: Security | None = None,
    ) -> None:
        security = security or Security()
        parsed = parse_address(address)
        self._payload: Kind = _choose(payload, parsed)
        self._may_fall_back = payload == "auto"
        if not 1 <= quality <= 100:
            raise ConfigError(f"JPEG quality: expected 1 to 100, but got {quality}")
        self._quality = quality
        self._slots = slots
        self._thread = threading.get_ident()
        self._sender = secrets.randbits(63)
        self._next_count: Counter[bytes] = Counter()
        self._rings: dict[str, shared_memory.RingWriter] = {}
        self._lines: dict[str, LineServer] = {}
        self._subscribed: Counter[bytes] = Counter()
        self._under_way: list[zmq.MessageTracker] = []
        self._queued = QUEUED * streams
        self._turns = Turns()
        self.counts: dict[str, Counter[str]] = {}
        self._clock: ClockServer | None = None
        self._endpoint = Endpoint(zmq.XPUB, security, MAX_SUBSCRIPTION, streams)
        self._endpoint.socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # tell how many want the same
        self._endpoint.socket.setsockopt(zmq.ONLY_FIRST_SUBSCRIBE, 1)  # not in what is no such part
        try:
            bind = parsed.bind is not False
            self._endpoint.open(parsed, bind)
            self.endpoint = self._endpoint.last_endpoint()
            """Where it really is, with the port that was free where port 0 or * was asked for."""
            if bind and not parsed.is_local:
                self._clock = ClockServer(_at(parsed, self.endpoint), security)
        except BaseException:
            self._endpoint.close()
            raise

    def wants_frames(self, camera: str) -> bool:
        """Whether anybody has subscribed to the frames of a camera."""
        self._check_thread()
        self._hear_subscriptions()
        return self._is_wanted(_topic(wire.frame_topic, camera))

    def wants_results(self, camera: str) -> bool:
        """Whether anybody has subscribed to the results on a camera."""
        self._check_thread()
        self._hear_subscriptions()
        return self._is_wanted(_topic(wire.result_topic, camera))

    def has_subscribers(self) -> bool:
        """Whether anybody has subscribed to anything."""
        self._check_thread()
        self._hear_subscriptions()
        return bool(self._subscribed)

    def frame_buffer(self, camera: str, height: int, width: int) -> Image:
        """Memory to draw a picture of a camera in, (height, width, 3) uint8, whatever is in it.

        `send_frame` sends what was drawn there without copying it, where it goes through shared
        memory; elsewhere the memory is like any other. Each picture is to have a new one.
        """
        if self.wants_frames(camera) and self._payload == "shm":
            with contextlib.suppress(RunError):  # then sending it tells why
                return self._ring(camera, height * width * wire.CHANNELS).lend(height, width)
        return np.empty((height, width, wire.CHANNELS), np.uint8)

    def send_frame(self, frame: Frame, clock: ClockOffset = SAME_CLOCK) -> bool:
        """Send a frame; False where nobody wants it.

        `clock` tells how far the clock that stamped it is ahead of this machine's. Raises
        `WireError` where no receiver would take it, `RunError` where shared memory cannot be had.
        """
        self._check_thread()
        header = frame.header
        topic = _topic(wire.frame_topic, header.camera)
        is_wanted = self._find_wanted(topic)
        turns = self._take_turns(topic)
        if not is_wanted and not turns:
            self._count(topic, "unwanted")
        receivers = [(own, counted) for own, counted in turns if own]
        if is_wanted:
            receivers.insert(0, (topic, topic))
        if not receivers:
            return False
        kind, payload = self._encode(topic, frame, clock, is_wanted)
        for own_topic, counted in receivers:
            if kind == "shm" and own_topic == topic and self._have_lines(topic, header.camera):
                self._note_sent(topic, counted)  # told of it while it was copied
                continue
            fields = self._envelope(own_topic, header, clock)
            self._send(own_topic, counted, wire.encode(FrameHeader(**fields, kind=kind)), payload)
        self._hear_subscriptions()
        return True

    def send_result(self, result: Result, clock: ClockOffset = SAME_CLOCK) -> bool:
        """Send a result without its image; False where nobody wants it.

        Raises `WireError` where no receiver would take it.
        """
        self._check_thread()
        topic = _topic(wire.result_topic, result.header.camera)
        if not self._find_wanted(topic):
            self._count(topic, "unwanted")
            return False
        fields = {**self._envelope(topic, result.header, clock), **result_fields(result)}
        self._send(topic, topic, wire.encode(ResultHeader(**fields)), result_payload(result))
        self._hear_subscriptions()
        return True

    def close(self, flush_s: float = 0.0) -> None:
        """Close; calling it again does nothing.

        At most `flush_s` seconds are spent on sending to subscribers what waits for them.
        """
        self._endpoint.close(flush_s)
        if self._clock is not None:
            self._clock.close()
            self._clock = None
        for camera, ring in self._rings.items():
            ring.close()
            self._lines[camera].close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Publisher belongs to the thread that made it")

    def _is_wanted(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self._subscribed)

    def _find_wanted(self, topic: bytes) -> bool:
        """Whether anybody wants what is about to be sent.

        Who has come or gone since is heard behind a message that is sent, to hold it up no longer.
        """
        if not self._is_wanted(topic):
            self._hear_subscriptions()
        return self._is_wanted(topic)

    def _take_turns(self, topic: bytes) -> list[tuple[bytes, bytes]]:
        """Of each group that wants it, the topic of the member whose turn it is, if any is ready.

        And what it counts under.
        """
        if not self._turns:
            return []
        self._hear_subscriptions()  # a member that has just become ready
        taken = []
        for group, own_topic in self._turns.take(topic):
            counted = f"turn/{group}/".encode() + topic
            if not own_topic:
                self._count(counted, "busy")
            taken.append((own_topic, counted))
        return taken

    def _hear_subscriptions(self) -> None:
        socket = self._endpoint.socket
        self._endpoint.door.check()
        for _ in range(MAX_SUBSCRIPTIONS):  # a flood of them must not hold up the frame
            if not is_readable(socket):
                return
            message, *more = socket.recv_multipart()
            if more:
                continue  # of no meaning, though a later part may look like a subscription
            kind, topic = message[:1], message[1:]
            if kind == b"\x01" and len(self._subscribed) < MAX_SUBSCRIPTIONS:
                self._subscribed[topic] += 1
                self._turns.join(topic)
            elif kind == b"\x00":
                self._subscribed[topic] -= 1
                if self._subscribed[topic] > 0:
                    continue
                del self._subscribed[topic]
                self._turns.leave(topic)
                self._forget_counts(topic)
            else:
                self._turns.hear(message)

    def _forget_counts(self, subscription: bytes) -> None:
        """A member has left for good: where it comes back, it has another name."""
        if subscription.startswith(b"turn/"):
            for topic in [t for t in self._next_count if t.startswith(subscription)]:
                del self._next_count[topic]

    def _encode(
        self, topic: bytes, frame: Frame, clock: ClockOffset, is_wanted: bool
    ) -> tuple[Kind, Any]:
        if self._payload == "jpeg":
            return "jpeg", encode_jpeg(frame.image, self._quality)
        if self._payload == "shm":
            try:
                return "shm", wire.encode(self._share(topic, frame, clock, is_wanted))
            except shared_memory.NoFreeSlot:
                self._count(topic, "inline")
            except RunError as error:
                if not self._may_fall_back:
                    raise
                log.warning("%s; sending raw pixels instead", error)
                self._payload = "raw"
        return "raw", encode_raw(frame.image)

    def _share(
        self, topic: bytes, frame: Frame, clock: ClockOffset, is_wanted: bool
    ) -> SharedReference:
        """Put a picture into shared memory, and tell those who have a line of it.

        They are told before it is copied, so that they wake up meanwhile, as long as each has a
        processor for that.
        """
        ring, lines = self._ring(frame.camera, frame.image.nbytes), self._lines[frame.camera]
        if not is_wanted:
            return ring.write(frame.image)
        if not self._have_lines(topic, frame.camera):
            lines.accept()
        tell = functools.partial(self._tell_by_line, topic, frame.header, clock)
        if len(lines) < PROCESSORS:
            return ring.write(frame.image, tell)
        reference = ring.write(frame.image)
        tell(reference)
        return reference

    def _ring(self, camera: str, nbytes: int) -> shared_memory.RingWriter:
        ring = self._rings.get(camera)
        if ring is None or ring.slot_bytes < nbytes:
            if ring is not None:
                ring.close()
                self._lines[camera].close()
            ring = self._rings[camera] = shared_memory.RingWriter(nbytes, self._slots)
            self._lines[camera] = LineServer(ring.ring)
        return ring

    def _envelope(self, topic: bytes, header: Header, clock: ClockOffset) -> dict[str, Any]:
        if max(header.width, header.height) > wire.MAX_SIDE:
            raise WireError(
                "size",
                f"a picture of {header.width} x {header.height} pixels; at most {wire.MAX_SIDE} "
                f"pixels a side can be sent",
            )
        return {
            "sender": self._sender,
            "count": self._next_count[topic],
            "camera": header.camera,
            "seq": header.seq,
            "stamp_ns": header.stamp_ns,
            "sent_ns": time.time_ns(),
            "steady_ns": time.monotonic_ns(),
            "clock_port": self._clock.port if self._clock is not None else 0,
            "clock_offset_ns": clock.offset_ns,
            "clock_error_ns": clock.error_ns,
            "width": header.width,
            "height": header.height,
        }

    def _have_lines(self, topic: bytes, camera: str) -> bool:
        """Whether all that have subscribed have a line."""
        wanted_by = sum(n for prefix, n in self._subscribed.items() if topic.startswith(prefix))
        return len(self._lines[camera]) >= wanted_by

    def _tell_by_line(
        self, topic: bytes, header: Header, clock: ClockOffset, reference: SharedReference
    ) -> None:
        lines = self._lines[header.camera]
        if lines:
            sent = FrameHeader(**self._envelope(topic, header, clock), kind="shm")
            lines.send(topic, wire.encode(sent), wire.encode(reference))

    def _send(self, topic: bytes, counted: bytes, header: bytes, payload: Any) -> None:
        socket = self._endpoint.socket
        # By itself libzmq looks only once in a while at what was taken out of its queues, and drops
        # for one that seems full meanwhile.
        is_readable(socket)
        socket.send(topic, zmq.SNDMORE)
        socket.send(header, zmq.SNDMORE)
        if len(payload) < NO_COPY_BYTES:
            socket.send(payload)
        else:
            self._let_go_ahead()
            self._under_way.append(socket.send(payload, copy=False, track=True))
        self._note_sent(topic, counted)

    def _let_go_ahead(self) -> None:
        """Give what was sent before a moment to leave, where it fills the queues.

        Else one that sends as fast as it can takes the processor from those who carry its messages,
        only to have them dropped. What is stuck before a subscriber that stands costs this once.
        """
        self._under_way = [message for message in self._under_way if not message.done]
        if len(self._under_way) >= self._queued:
            with contextlib.suppress(zmq.NotDone):
                self._under_way.pop(0).wait(GO_AHEAD_S)

    def _note_sent(self, topic: bytes, counted: bytes) -> None:
        self._next_count[topic] += 1
        self._count(counted, "sent")

    def _count(self, topic: bytes, what: str) -> None:
        self.counts.setdefault(topic.decode(), Counter())[what] += 1


def _choose(payload: PayloadKind, address: Address) -> Kind:
    if payload == "auto":
        if not address.is_local:
            return "jpeg"
        return "shm" if ring_file.is_available() else "raw"
    if payload not in {"raw", "jpeg", "shm"}:
        raise ConfigError(f"payload: expected auto, raw, jpeg or shm, but got '{payload}'")
    if payload == "shm" and not address.is_local:
        raise ConfigError(
            f"address '{address.text}': shared memory does not reach another machine; "
            f"choose jpeg or raw, or an address of this machine"
        )
    return payload


@functools.lru_cache(1024)
def _topic(make: Any, camera: str) -> bytes:
    if len(camera) > wire.MAX_CAMERA or not re.search(wire.CAMERA_PATTERN, camera):
        raise WireError("topic", f"camera name '{camera[:200]}': cannot be part of a topic")
    topic: bytes = make(camera)
    return topic


def _at(address: Address, endpoint: str) -> Address:
    """The same address with the port that was really bound."""
    port = endpoint.rpartition(":")[2]
    host = f"tcp://{address.host}:{port}"
    return Address(address.text, host, address.host, address.camera, address.bind, False)
