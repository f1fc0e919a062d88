"""Receives frames and results, the newest of each camera, and counts the others."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import zmq

from pipeline.errors import ConfigError
from pipeline.transport.address import Address, parse_address
from pipeline.transport.clock import RemoteClocks
from pipeline.transport.shm.ring_file import Gone, OutOfReach
from pipeline.transport.shm.rings import ReaderRings
from pipeline.transport.wire.frames import frame_of
from pipeline.transport.wire.messages import EndMessage, FrameMessage, decode
from pipeline.transport.wire.results import result_of
from pipeline.transport.wire.schema import (
    MAX_TOPIC,
    EndHeader,
    Envelope,
    Limits,
    SharedReference,
    WireError,
)
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.peers.incoming import EndlessMessage, IncomingLimit
from pipeline.transport.zmq.pending import HEADER_COST, Arrived, Pending
from pipeline.transport.zmq.sockets import Endpoint, is_readable, key_of, peer_of
from pipeline.transport.zmq.stream_counts import LATE_NS, Connection, LogLimit, Streams
from pipeline.transport.zmq.subscriptions import end_receipt, stream_topics, subscriber_topic
from pipeline.transport.zmq.worker_groups import QUEUED_REQUESTS, REPEAT_S, Requests, member_prefix
from pipeline.types import ClockOffset, Frame, Image, Result

MAX_DRAIN = 100  # messages read at once; a flood must not delay the newest
MAX_HELD = 16
FRESHER_S = 0.1  # how long to wait for the fresher message behind one that was long on its way
LATE_S = LATE_NS / 1e9
STEP_S = 0.02  # longer waits are not counted, because the process was stopped meanwhile
MAX_STEPS = 50

_here = partial(str, "localhost")  # the address of those who notify

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """A frame or a result, and the header of its message.

    `clock` says how far the clock that stamped the frame is ahead of this machine's, None if that
    is not known (yet). `stream` is a number of its sender that no other peer can claim.
    """

    item: Frame | Result
    header: Envelope
    clock: ClockOffset | None
    stream: int = 0

    def age_ns(self) -> int:
        """The frame's age by this machine's clock, as far as the clocks' difference is known.

        It is at least 0, also if a clock was set back or the difference is not exact.
        """
        ahead = self.clock.offset_ns if self.clock is not None else 0
        return max(time.time_ns() - (self.header.age_start_ns - ahead), 0)


class Subscriber:
    """Subscribes to the frames, the results or both of publishers.

    - `addresses`: one or several; publishers may start before or after, and restart. If they name
      cameras, only those are subscribed to
    - `group`: share the frames with the other members of this group; each call of `receive` then
      returns a frame that no other member gets
    - `every`: return every message in order, as far as `MAX_HELD` per stream; else only the newest
    - `streams`: how many cameras' frames and results are expected
    - `limits`: the largest images and the number of cameras that are accepted

    One thread at a time may use it. `counts` holds by topic what happened to the messages:
    `received` (all), and of these `given`, `superseded` (by a newer one), `gone` (no longer in
    shared memory), `invalid`, `repeated` and `unread` (not asked for before `close`); and those
    `lost` on the way. Under the topic `?` count invalid messages, and those `refused` because of
    the number of cameras.

    Raises `ConfigError` if an address cannot be used or needs keys.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        frames: bool = True,
        results: bool = False,
        group: str | None = None,
        every: bool = False,
        streams: int = 1,
        limits: Limits | None = None,
        security: Security | None = None,
    ) -> None:
        if group is not None and (results or not frames):
            raise ConfigError(f"group '{group}': members share frames and cannot receive results")
        parsed, self._limits = _parse(addresses), limits or Limits()
        self._security = security = (security or Security()).for_subscriber()
        self._topics = stream_topics(parsed, frames, results)
        self._pending = Pending(MAX_HELD if every else 1, self._limits.max_pending_bytes)
        self._member = member_prefix(group)
        self._name = secrets.token_hex(8)
        self._frames_had = 0
        self._requests = Requests([self._member + topic for topic in self._topics])
        reader = b"" if self._member else self._name.encode()
        reader = b"" if self._member else self._name.encode()
        self._rings = ReaderRings(self._limits.max_frame_bytes, reader)
        self._clocks = RemoteClocks(parsed[0], security)
        self._log_limit = LogLimit()
        self._streams = Streams(self._limits.max_cameras)
        self.counts = self._streams.counts
        self._awaited_s: float | None = None
        self._opening = partial(_open_socket, parsed, self._member, security, self._limits, streams)
        self._open()

    def _open(self) -> None:
        self._endpoint = self._opening()
        try:
            if not self._member:
                self._set_subscribed(subscriber_topic(self._name.encode()), True)
            for topic in self._topics:
                self._set_subscribed(self._member + topic, True)
        except BaseException:
            self._endpoint.close()
            raise
        self._incoming = IncomingLimit(self._endpoint, self._limits.max_received_bytes)

    def _open_again(self) -> None:
        """Drop all connections, because a message on one of them does not end."""
        self._refuse("one of all", WireError("parts", "a message has too many parts"))
        self._incoming.close()
        self._endpoint.close()
        self._open()

    def await_message(self, timeout_s: float) -> bool:
        """Wait for a valid message; returns False if none came in time.

        The next `receive` returns it, or a newer one if it is called later than `LATE_S`.
        """
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._drain(left_s)
            while self._pending:
                first = self._pending.first()
                if self._read(first) is not None:
                    self._awaited_s = time.monotonic()
                    return True
                self._pending.take(first.key)
        return False

    def receive(self, timeout_s: float) -> Received | None:
        """The newest message of the camera that waits longest; None if none came in time."""
        awaited_s, self._awaited_s = self._awaited_s, None
        if awaited_s is not None and time.monotonic() - awaited_s > LATE_S:
            self._discard_pending()
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = 0.0 if self._pending else max(deadline_s - time.monotonic(), 0.0)
            if self._member:
                self._send_ready()
                left_s = min(left_s, REPEAT_S)
            self._drain(left_s)
            while self._pending:
                received = self._give_next()
                if received is not None:
                    return received
            if time.monotonic() >= deadline_s:
                return None

    def close(self) -> None:
        """Close at once, and count the messages that arrived unread. Idempotent."""
        try:
            if not self._endpoint.socket.closed:
                self._drain(0.0)
        finally:
            self._pending.discard("unread")
            self._incoming.close()
            self._rings.close()  # first, so that no publisher regards them as in use
            self._endpoint.close()
            self._clocks.close()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # --- receiving messages -----------------------------------------------------------------

    def _drain(self, wait_s: float) -> None:
        """Read all messages that have arrived, waiting at most `wait_s` for the first."""
        if self._wait(wait_s):
            self._read_all()

    def _wait(self, wait_s: float) -> bool:
        """Wait for a message for at most `wait_s`; returns whether there is one."""
        clients = [(client, zmq.POLLIN) for client in self._rings.clients.values()]
        socket = self._endpoint.socket
        return bool(zmq.zmq_poll([(socket, zmq.POLLIN), *clients], int(wait_s * 1000)))

    def _read_all(self) -> None:
        socket = self._endpoint.socket
        self._read_notifications()
        for _ in range(MAX_DRAIN):
            if not is_readable(socket):
                return
            try:
                parts, connection = self._incoming.read(socket)
            except EndlessMessage:
                self._open_again()
                return
            if self._endpoint.is_crowded:
                self._endpoint.note_message(parts[0])
            sender = partial(self._sender, parts[0])
            try:
                if self._security.rights:  # else only the first message of a stream is checked
                    sender()
                self._accept([part.buffer for part in parts], connection, sender)
            except WireError as error:
                self._refuse(peer_of(parts[0]), error)

    def _read_notifications(self) -> None:
        for ring, client in tuple(self._rings.clients.items()):
            for _ in range(MAX_DRAIN):
                parts = client.receive()
                if parts is None:
                    break
                try:
                    self._accept(parts, ring, _here)
                except WireError as error:
                    self._refuse(_here(), error)
            if not client.is_open:
                del self._rings.clients[ring]

    def _discard_pending(self) -> None:
        """Discard all messages that have arrived so far."""
        self._drain(0.0)
        self._pending.discard("superseded")

    def _set_subscribed(self, topic: bytes, on: bool) -> None:
        if self._member:
            self._endpoint.socket.send((b"\x01" if on else b"\x00") + topic, zmq.NOBLOCK)
        else:
            self._endpoint.socket.setsockopt(zmq.SUBSCRIBE if on else zmq.UNSUBSCRIBE, topic)

    def _send_ready(self) -> None:
        if not self._pending:
            for message in self._requests.due(self._frames_had):
                self._endpoint.socket.send(message, zmq.NOBLOCK)

    def _accept(
        self, parts: Sequence[Any], connection: Connection, peer: Callable[[], str]
    ) -> None:
        topic = bytes(parts[0][: MAX_TOPIC + 1]).removeprefix(self._member)
        message = decode([topic, *parts[1:]], self._limits)
        if not self._is_wanted(topic):
            return  # libzmq matches prefixes: frame/front also matches frame/front_left
        if isinstance(message, EndMessage):
            self._end(topic, message.header, connection)
            return
        stream = self._streams.admit(topic.decode(), message.header, connection, peer)
        if stream is None:
            return
        self._frames_had += 1
        nbytes = HEADER_COST * len(parts[1]) + sum(len(part) for part in parts[2:])
        self._pending.add(stream, message, nbytes)

    def _sender(self, part: zmq.Frame) -> str:
        """The address of a message's sender; raises `WireError` if that may not send the topic."""
        self._endpoint.check_user(part)
        topic = bytes(part.buffer[: MAX_TOPIC + 1]).removeprefix(self._member)
        self._security.check_camera(key_of(part), topic.partition(b"/")[2].decode(errors="replace"))
        return peer_of(part)

    def _end(self, topic: bytes, header: EndHeader, connection: Connection) -> None:
        """Count the lost messages of a topic that has ended, and confirm the end."""
        self._read_notifications()  # they were sent before
        self._streams.end(topic.decode(), header, connection)
        receipt = end_receipt(header.sender, self._name, self._member + topic)
        for on in (True, False):
            self._set_subscribed(receipt, on)

    def _is_wanted(self, topic: bytes) -> bool:
        return any(
            topic == wanted or (wanted.endswith(b"/") and topic.startswith(wanted))
            for wanted in self._topics
        )

    def _refuse(self, peer: str, error: WireError) -> None:
        self._streams.refuse()
        self._warn(error.reason, "a message from %s was refused: %s", peer, error)

    # --- returning messages -----------------------------------------------------------------

    def _give_next(self) -> Received | None:
        first = self._pending.first()
        is_stale = first.stream.is_late and self._pending.depth == 1
        arrived = self._fresher(first) if is_stale else self._pending.take(first.key)
        item = self._read(arrived) if arrived is not None else None
        if arrived is None or item is None:
            return None
        stream, header = arrived.stream, arrived.message.header
        stream.count["given"] += 1
        stamp_clock = ClockOffset(header.clock_offset_ns, header.clock_error_ns)
        clock = self._clocks.offset(stream.peer, header.clock_port, stamp_clock)
        return Received(item, header, clock, stream.number)

    def _read(self, arrived: Arrived) -> Frame | Result | None:
        """The frame or result of a message; None, which is counted, if it cannot be read."""
        stream, message = arrived.stream, arrived.message
        try:
            if isinstance(message, FrameMessage):
                if message.reference is not None:
                    stream.ring = message.reference.ring
                return frame_of(message, self._read_slot)
            return result_of(message)
        except Gone as error:
            stream.count["gone"] += 1
            if isinstance(error, OutOfReach):
                self._warn("out of reach", "%s", error)
        except WireError as error:
            stream.count["invalid"] += 1
            self._warn(error.reason, "a message from %s was refused: %s", stream.peer, error)
        return None

    def _fresher(self, arrived: Arrived) -> Arrived | None:
        """The first message that is not late, or the newest if none comes soon.

        None if another publisher of the same topic has a fresher one. Only waiting is timed, not
        reading the messages that arrived while this process was stopped, nor another stop.
        """
        stream, waited_s = arrived.stream, 0.0
        for _ in range(MAX_STEPS):
            if not stream.is_late or waited_s >= FRESHER_S:
                break
            start_s = time.monotonic()
            is_there = self._wait(STEP_S)
            waited_s += min(time.monotonic() - start_s, STEP_S)
            if is_there:
                self._read_all()
        newest = self._pending.take(arrived.key)
        if newest is not None and newest.stream.is_late:
            newest.stream.settle()
            if self._pending.has_topic(stream.topic):
                newest.stream.count["superseded"] += 1
                return None
        return newest

    def _read_slot(self, reference: SharedReference, shape: tuple[int, ...]) -> Image:
        return self._rings.get(reference.ring).read(reference, shape)

    def _warn(self, kind: str, text: str, *arguments: Any) -> None:
        if self._log_limit.allows(kind):
            log.warning(text, *arguments)


def check_subscription(
    addresses: str | Sequence[str], *, group: str | None = None, security: Security | None = None
) -> None:
    """Raise `ConfigError` if the addresses cannot be subscribed to.

    It does not subscribe: a publisher that waits for a subscriber would begin to send.
    """
    member, security = member_prefix(group), (security or Security()).for_subscriber()
    _open_socket(_parse(addresses), member, security, Limits(), 1).close()


def _parse(addresses: str | Sequence[str]) -> list[Address]:
    texts = [addresses] if isinstance(addresses, str) else addresses
    if not texts:
        raise ConfigError("subscribe: expected at least one address, but got none")
    return [parse_address(text) for text in texts]


def _open_socket(
    addresses: list[Address], member: bytes, security: Security, limits: Limits, streams: int
) -> Endpoint:
    """The socket of a subscriber at all of the addresses, without a subscription."""
    # A member of a group sends requests to the publisher, which only XSUB can.
    endpoint = Endpoint(zmq.XSUB if member else zmq.SUB, security, limits.max_part_bytes, streams)
    endpoint.socket.sndhwm = QUEUED_REQUESTS * streams
    try:
        for address in addresses:
            endpoint.open(address, address.bind is True)
    except BaseException:
        endpoint.close()
        raise
    return endpoint
