"""Sends frames and results to all subscribers, and each frame to one member of every group."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import zmq

from pipeline.settings import MAX_SIDE, Payload, Settings
from pipeline.transport.address import Address, parse_address
from pipeline.transport.clock import ClockServer
from pipeline.transport.shm.ring import DEFAULT_SLOTS
from pipeline.transport.wire.frames import plane_headers
from pipeline.transport.wire.messages import encode
from pipeline.transport.wire.results import result_fields, result_payload
from pipeline.transport.wire.schema import (
    CAMERA_PATTERN,
    CHANNELS,
    MAX_CAMERA,
    VERSION,
    EndHeader,
    FrameHeader,
    ResultHeader,
    WireError,
    frame_topic,
    result_topic,
)
from pipeline.transport.zmq.frame_payloads import FramePayloads, Kind
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.sockets import QUEUED, Endpoint, is_readable
from pipeline.transport.zmq.subscriptions import MAX_SUBSCRIPTION, Subscriptions
from pipeline.types import SAME_CLOCK, ClockOffset, Frame, Header, Image, Result

NO_COPY_BYTES = 16384  # from this size on, passing memory to libzmq is cheaper than copying it
GO_AHEAD_S = 0.001
REPEAT_END_S = 0.02
MAX_GROUPS = 64  # counted apart; further ones count as "?"


class Publisher:
    """Publishes frames and results at an address until it is closed.

    Every subscriber receives every frame; of a group, one member receives it.

    - `payload`: how pixels travel: `raw`, `jpeg`, `shm` (shared memory), or `auto`: shared memory
      if the address cannot be reached from another machine, JPEG if it can
    - `quality`: of JPEG, 1 to 100
    - `streams`: how many cameras' frames and results are sent, so that the queue of each
      subscriber has room for the newest of each
    - `slots`: how many frames a ring in shared memory holds

    Only the thread that created it may use it. Frames without a subscriber are neither encoded nor
    sent. The publisher never waits for a slow subscriber: messages that it has no room for are
    dropped. `counts` holds for each topic the number of messages `sent` and `unwanted` (without a
    subscriber), and of frames sent `inline` because all slots in shared memory were in use; for a
    group, under `turn/GROUP/frame/CAMERA`, those `sent` to its members and those that found all of
    them `busy`.

    Raises `ConfigError` if the address cannot be used or needs keys.
    """

    def __init__(
        self,
        address: str,
        *,
        payload: Payload = Settings.payload,
        quality: int = Settings.quality,
        streams: int = 1,
        slots: int = DEFAULT_SLOTS,
        security: Security | None = None,
    ) -> None:
        security = (security or Security()).for_publisher()
        parsed = parse_address(address)
        self._payloads = FramePayloads(parsed, payload, quality, slots, self._count_inline)
        self._thread = threading.get_ident()
        self._sender = secrets.randbits(63)
        self._next_count: Counter[bytes] = Counter()
        self._in_flight: list[zmq.MessageTracker] = []
        self._queued = QUEUED * streams
        self._counted_groups: set[str] = set()
        self.counts: dict[str, Counter[str]] = {}
        self._clock: ClockServer | None = None
        self._endpoint = Endpoint(zmq.XPUB, security, MAX_SUBSCRIPTION, streams)
        socket = self._endpoint.socket
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # report every subscriber of the same topic
        socket.setsockopt(zmq.ONLY_FIRST_SUBSCRIBE, 1)  # later parts of a message are none
        self._subscriptions = Subscriptions(self._endpoint, self._forget_counts)
        try:
            bind = parsed.bind is not False
            self._endpoint.open(parsed, bind)
            self.endpoint = self._endpoint.last_endpoint()
            """The real endpoint, with the port that was chosen for port 0 or *."""
            if bind and not parsed.is_local:
                self._clock = ClockServer(_at(parsed, self.endpoint), security)
        except BaseException:
            self._endpoint.close()
            raise

    def wants_frames(self, camera: str) -> bool:
        """Whether a camera's frames have a subscriber."""
        self._update()
        return self._subscriptions.wants(_topic(frame_topic, camera))

    def wants_results(self, camera: str) -> bool:
        """Whether the results on a camera's frames have a subscriber."""
        self._update()
        return self._subscriptions.wants(_topic(result_topic, camera))

    def has_subscribers(self) -> bool:
        """Whether there is any subscriber."""
        self._update()
        return bool(self._subscriptions.prefixes)

    def frame_buffer(self, camera: str, height: int, width: int) -> Image:
        """Memory to draw a camera's image in, (height, width, 3) uint8, not initialised.

        With shared memory, `send_frame` sends an image in this memory without copying it. Otherwise
        it is ordinary memory. Each image needs a new buffer.
        """
        if self.wants_frames(camera):
            return self._payloads.buffer(camera, height, width)
        return np.empty((height, width, CHANNELS), np.uint8)

    def send_frame(self, frame: Frame, clock: ClockOffset = SAME_CLOCK) -> bool:
        """Send a frame; returns False if it has no subscriber.

        `clock` says how far the clock that stamped it is ahead of this machine's. Raises
        `WireError` if every receiver would refuse it, `RunError` if shared memory is not available.
        """
        self._check_thread()
        topic = _topic(frame_topic, frame.camera)
        is_wanted = self._is_wanted(topic)
        members = self._choose_members(topic)
        if not is_wanted and not members:
            self._count(topic, "unwanted")
        receivers = [(own, counted) for own, counted in members if own]
        if is_wanted:
            receivers.insert(0, (topic, topic))
        if not receivers:
            return False
        planes = plane_headers(frame.planes) if frame.planes else ()

        def header(under: bytes, kind: Kind = "shm") -> bytes:
            envelope = self._envelope(under, frame.header, clock)
            return encode(FrameHeader(**envelope, kind=kind, planes=planes))

        subscribers = self._subscriptions.names(topic)
        make_header = functools.partial(header, topic)
        kind, payloads = self._payloads.encode(frame, subscribers, make_header, topic)
        readers = self._payloads.rings.readers(frame.camera)
        are_notified = kind == "shm" and subscribers <= readers
        for own_topic, counted in receivers:
            if own_topic == topic and are_notified:
                self._note_sent(topic, counted)  # all were notified while it was copied
            else:
                self._send(own_topic, counted, header(own_topic, kind), payloads)
        self._update()
        return True

    def send_result(self, result: Result, clock: ClockOffset = SAME_CLOCK) -> bool:
        """Send a result without its frame; returns False if it has no subscriber.

        Raises `WireError` if every receiver would refuse it.
        """
        self._check_thread()
        topic = _topic(result_topic, result.header.camera)
        if not self._is_wanted(topic):
            self._count(topic, "unwanted")
            return False
        fields = {**self._envelope(topic, result.header, clock), **result_fields(result)}
        self._send(topic, topic, encode(ResultHeader(**fields)), [result_payload(result)])
        self._update()
        return True

    def close(self, flush_s: float = 0.0) -> None:
        """Send the end of each topic and close. Idempotent.

        Waits at most `flush_s` seconds for subscribers to receive the messages that are queued.
        """
        deadline_s = time.monotonic() + flush_s
        if not self._endpoint.socket.closed:
            self._send_ends(deadline_s)
        self._endpoint.close(max(deadline_s - time.monotonic(), 0.0))
        if self._clock is not None:
            self._clock.close()
            self._clock = None
        self._payloads.rings.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # --- subscriptions ----------------------------------------------------------------------

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Publisher may only be used by the thread that created it")

    def _update(self) -> None:
        self._check_thread()
        self._subscriptions.update()

    def _is_wanted(self, topic: bytes) -> bool:
        """Whether the topic has a subscriber.

        Changes are processed after each send, so that they do not delay it.
        """
        if not self._subscriptions.wants(topic):
            self._update()
        return self._subscriptions.wants(topic)

    def _choose_members(self, topic: bytes) -> list[tuple[bytes, bytes]]:
        """For each group that wants the topic: the chosen member's topic, and the counts' topic.

        The member's topic is empty if all members are busy.
        """
        if not self._subscriptions.groups:
            return []
        self._update()  # a member may have become ready
        chosen = []
        for group, own_topic in self._subscriptions.groups.choose(topic):
            if group not in self._counted_groups and len(self._counted_groups) < MAX_GROUPS:
                self._counted_groups.add(group)
            counted_as = group if group in self._counted_groups else "?"
            counted = f"turn/{counted_as}/".encode() + topic
            if not own_topic:
                self._count(counted, "busy")
            chosen.append((own_topic, counted))
        return chosen

    def _forget_counts(self, prefix: bytes) -> None:
        for topic in [t for t in self._next_count if t.startswith(prefix)]:
            del self._next_count[topic]

    # --- sending ----------------------------------------------------------------------------

    def _envelope(self, topic: bytes, header: Header, clock: ClockOffset) -> dict[str, Any]:
        if max(header.width, header.height) > MAX_SIDE:
            raise WireError(
                "size",
                f"an image of {header.width} x {header.height} pixels; at most {MAX_SIDE} "
                f"pixels a side can be sent",
            )
        return {
            "version": VERSION,
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
            "read_ns": header.read_ns,
            "recorded": header.recorded,
        }

    def _send(self, topic: bytes, counted: bytes, header: bytes, payloads: list[Any]) -> None:
        socket = self._endpoint.socket
        # libzmq checks only now and then how much of its queues was sent, and drops messages for
        # queues that seem full. This makes it check.
        is_readable(socket)
        socket.send(topic, zmq.SNDMORE)
        socket.send(header, zmq.SNDMORE)
        last = len(payloads) - 1
        for number, payload in enumerate(payloads):
            more = zmq.SNDMORE if number < last else 0
            if len(payload) < NO_COPY_BYTES:
                socket.send(payload, more)
            else:
                self._let_go_ahead()
                self._in_flight.append(socket.send(payload, more, copy=False, track=True))
        self._note_sent(topic, counted)

    def _let_go_ahead(self) -> None:
        """Wait a moment for earlier messages to leave if they fill the queues.

        Without it, a publisher that sends as fast as it can takes the processor from the threads
        that carry its messages, only for those to be dropped. Messages that are stuck in front of a
        stopped subscriber cost this wait once each.
        """
        self._in_flight = [message for message in self._in_flight if not message.done]
        if len(self._in_flight) >= self._queued:
            with contextlib.suppress(zmq.NotDone):
                self._in_flight.pop(0).wait(GO_AHEAD_S)

    def _send_ends(self, deadline_s: float) -> None:
        """Send for each topic how many messages were sent; repeat it until all have confirmed.

        An end that finds a full queue is dropped, and sent again once there is room. The limit of
        the queue must not be raised here: libzmq 4.3.5 crashes if a connection ends meanwhile.
        """
        socket, topics = self._endpoint.socket, list(self._next_count)
        while waiting := self._subscriptions.unconfirmed(self._sender, topics):
            for topic in waiting:
                camera = topic.decode().split("/", 4 if topic.startswith(b"turn/") else 1)[-1]
                sent = self._next_count[topic]
                end = EndHeader(version=VERSION, sender=self._sender, sent=sent, camera=camera)
                socket.send_multipart([topic, encode(end)], zmq.NOBLOCK)
            left_s = min(deadline_s - time.monotonic(), REPEAT_END_S)
            if left_s <= 0:
                return
            socket.poll(int(left_s * 1000) + 1)

    def _note_sent(self, topic: bytes, counted: bytes) -> None:
        self._next_count[topic] += 1
        self._count(counted, "sent")

    def _count_inline(self, camera: str) -> None:
        self._count(_topic(frame_topic, camera), "inline")

    def _count(self, topic: bytes, what: str) -> None:
        self.counts.setdefault(topic.decode(), Counter())[what] += 1


@functools.lru_cache(1024)
def _topic(make: Any, camera: str) -> bytes:
    if len(camera) > MAX_CAMERA or not re.search(CAMERA_PATTERN, camera):
        raise WireError("topic", f"camera name '{camera[:200]}': cannot be part of a topic")
    topic: bytes = make(camera)
    return topic


def _at(address: Address, endpoint: str) -> Address:
    """The same address with the port that was really bound."""
    port = endpoint.rpartition(":")[2]
    host = f"tcp://{address.host}:{port}"
    return Address(address.text, host, address.host, address.camera, address.bind, False)
