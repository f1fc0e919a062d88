"""Receives frames and results, the newest of each camera, and counts what became of the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import zmq

from pipeline.errors import ConfigError
from pipeline.transport.address import is_loopback
from pipeline.transport.clock import ClockClient
from pipeline.transport.shm.notify import Line, connect
from pipeline.transport.shm.ring import RingReader
from pipeline.transport.shm.ring_file import Gone, OutOfReach
from pipeline.transport.wire import messages as wire
from pipeline.transport.wire import pixels as payload
from pipeline.transport.wire.messages import Envelope, FrameMessage, Limits, Message, WireError
from pipeline.transport.wire.results import result_of
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.sockets import is_readable, peer_of
from pipeline.transport.zmq.stream_counts import LATE_NS, Stream, Streams
from pipeline.transport.zmq.subscriber_socket import (
    open_socket,
    parse_addresses,
    topics_of,
    turn_of,
)
from pipeline.transport.zmq.worker_groups import ready_message
from pipeline.types import SAME_CLOCK, ClockOffset, Frame, Image, Result

MAX_DRAIN = 100  # messages that are taken at once; a flood must not keep the newest from its user
MAX_HELD = 16
REPEAT_S = 0.1  # how often a member says again that it is ready
MAX_RINGS = 16
MAX_CLOCKS = 16
FRESHER_S = 0.1  # a message that was long on its way has a fresher one behind, to be waited for
LATE_S = LATE_NS / 1e9
STEP_S = 0.02  # a process that is stopped while it waits has waited so long
MAX_STEPS = 50
WARN_EVERY_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """What came: a frame or a result, and what its header tells beside it.

    `clock` says how far the clock that stamped the frame is ahead of this machine's, None where
    that is not known (yet).
    """

    item: Frame | Result
    header: Envelope
    clock: ClockOffset | None

    def age_ns(self) -> int:
        """How long ago the frame was captured, by this machine's clock as far as that is known.

        It is 0 where a clock was set back meanwhile, or is known less well than that.
        """
        ahead = self.clock.offset_ns if self.clock is not None else 0
        return max(time.time_ns() - (self.header.stamp_ns - ahead), 0)


class Subscriber:
    """Subscribes to the frames, the results or both of publishers.

    - `addresses`: one or several; publishers may start before or after, and start again. Where they
      name cameras, only those are wanted
    - `group`: take turns on the frames with the other members of this group, wherever they run;
      then each call of `receive` is given a frame that no other member gets
    - `every`: give every message that comes, in order, as far as `MAX_HELD` of a stream; else only
      the newest
    - `streams`: how many cameras' frames and results are expected
    - `limits`: the largest pictures that are taken

    It is for one thread at a time. What becomes of the messages is counted in `counts`, by topic:
    `received` (all that came), of them `given`, `superseded` (by a newer one), `gone` (no longer in
    shared memory), `invalid`, `repeated` and `unread` (nobody asked for them before `close`); and
    `lost` on the way. Messages that are not valid count under the topic `?`.

    Raises `ConfigError` where an address cannot be used or needs keys.
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
        parsed = parse_addresses(addresses)
        self._limits = limits or Limits()
        self._security = security or Security()
        self._topics = topics_of(parsed, frames, results)
        self._pending: dict[Stream, deque[Message]] = {}
        self._held = MAX_HELD if every else 1
        self._turn = turn_of(group)
        self._frames_had = 0
        self._rings: dict[str, RingReader] = {}
        self._lines: dict[str, Line] = {}
        self._clocks: dict[str, ClockClient] = {}
        self._warned_at_s: dict[str, float] = {}
        self._streams = Streams()
        self.counts = self._streams.counts
        if group is not None and (results or not frames):
            raise ConfigError(f"group '{group}': its members take turns on frames, not on results")
        self._awaited_s: float | None = None
        self._endpoint = open_socket(parsed, self._turn, self._security, self._limits, streams)
        try:
            for topic in self._topics:
                self._subscribe(topic)
        except BaseException:
            self._endpoint.close()
            raise

    def await_message(self, timeout_s: float) -> bool:
        """Wait at most so long for a message that can be read; whether there is one.

        It is left to be received, unless whoever receives comes only later: then it is superseded.
        """
        self._endpoint.door.check()
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._drain(left_s)
            while self._pending:
                stream, held = next(iter(self._pending.items()))
                if self._read(stream, held[0]) is not None:
                    self._awaited_s = time.monotonic()
                    return True
                self._next(stream)
        return False

    def receive(self, timeout_s: float) -> Received | None:
        """The newest of the camera whose turn it is; None where nothing came in time."""
        self._endpoint.door.check()
        awaited_s, self._awaited_s = self._awaited_s, None
        if awaited_s is not None and time.monotonic() - awaited_s > LATE_S:
            self._pass_over()
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = 0.0 if self._pending else max(deadline_s - time.monotonic(), 0.0)
            if self._turn:
                self._say_ready()
                left_s = min(left_s, REPEAT_S)
            self._drain(left_s)
            while self._pending:
                received = self._take_turn()
                if received is not None:
                    return received
            if time.monotonic() >= deadline_s:
                return None

    def close(self) -> None:
        """Close at once, and count what has come unread; calling it again does nothing."""
        try:
            if not self._endpoint.socket.closed:
                self._drain(0.0)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for stream, held in self._pending.items():
            stream.count["unread"] += len(held)
        for line in self._lines.values():  # first, so that no publisher believes it in use any more
            line.close()
        self._lines.clear()
        self._endpoint.close()
        for clock in self._clocks.values():
            clock.close()
        self._clocks.clear()
        self._pending.clear()
        self._rings.clear()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # --- taking messages in -----------------------------------------------------------------

    def _drain(self, wait_s: float) -> None:
        """Take in all that is there, waiting for the first at most so long."""
        if self._wait(wait_s):
            self._take_in()

    def _wait(self, wait_s: float) -> bool:
        """Wait for a message at most so long; whether there is one."""
        lines = [(line, zmq.POLLIN) for line in self._lines.values()]
        socket = self._endpoint.socket
        return bool(zmq.zmq_poll([(socket, zmq.POLLIN), *lines], int(wait_s * 1000)))

    def _take_in(self) -> None:
        socket = self._endpoint.socket
        for ring in tuple(self._lines):
            self._drain_line(ring)
        for _ in range(MAX_DRAIN):
            if not is_readable(socket):
                return
            parts = socket.recv_multipart(copy=False)
            self._accept([part.buffer for part in parts], partial(peer_of, parts[0]))

    def _pass_over(self) -> None:
        """Take nothing of what has come so far, for a reader that begins only now."""
        self._drain(0.0)
        for stream, held in self._pending.items():
            stream.count["superseded"] += len(held)
        self._pending.clear()

    def _drain_line(self, ring: str) -> None:
        line = self._lines[ring]
        for _ in range(MAX_DRAIN):
            parts = line.receive()
            if parts is None:
                break
            self._accept(parts, _here, by_line=True)
        if not line.is_open:
            del self._lines[ring]

    def _subscribe(self, topic: bytes) -> None:
        if self._turn:
            self._endpoint.socket.send(b"\x01" + self._turn + topic)
        else:
            self._endpoint.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _say_ready(self) -> None:
        """Ask for the next frame; again and again, in case a publisher has just started."""
        if not self._pending:
            for topic in self._topics:
                message = ready_message(self._turn + topic, self._frames_had)
                self._endpoint.socket.send(message, zmq.NOBLOCK)

    def _accept(self, parts: Sequence[Any], peer: Callable[[], str], by_line: bool = False) -> None:
        topic = bytes(parts[0][: wire.MAX_TOPIC + 1]).removeprefix(self._turn)
        try:
            message = wire.decode([topic, *parts[1:]], self._limits)
        except WireError as error:
            self._refuse(peer(), error)
            return
        if not self._is_wanted(topic):
            return  # libzmq matches beginnings: frame/front is also that of frame/front_left
        stream = self._streams.admit(topic.decode(), message.header, peer, by_line)
        if stream is None:
            return
        self._frames_had += 1
        held = self._pending.setdefault(stream, deque(maxlen=self._held))
        if len(held) == self._held:
            stream.count["superseded"] += 1
        held.append(message)

    def _is_wanted(self, topic: bytes) -> bool:
        return any(
            topic == wanted or (wanted.endswith(b"/") and topic.startswith(wanted))
            for wanted in self._topics
        )

    def _refuse(self, peer: str, error: WireError) -> None:
        self._streams.refuse()
        self._warn(error.reason, "a message from %s was refused: %s", peer, error)

    # --- giving them out --------------------------------------------------------------------

    def _take_turn(self) -> Received | None:
        stream = next(iter(self._pending))
        message = (
            self._fresher(stream) if stream.is_late and self._held == 1 else self._next(stream)
        )
        if message is None:
            return None
        item = self._read(stream, message)
        if item is None:
            return None
        stream.count["given"] += 1
        return Received(item, message.header, self._clock(message.header, stream.peer))

    def _read(self, stream: Stream, message: Message) -> Frame | Result | None:
        """What a message holds; None, which is counted, where that cannot be had."""
        try:
            return self._item(message)
        except Gone as error:
            stream.count["gone"] += 1
            if isinstance(error, OutOfReach):
                self._warn("out of reach", "%s", error)
        except WireError as error:
            stream.count["invalid"] += 1
            self._warn(error.reason, "a message from %s was refused: %s", stream.peer, error)
        return None

    def _next(self, stream: Stream) -> Message:
        """The oldest message that is held; the stream's next one has to wait for the others'."""
        held = self._pending.pop(stream)
        message = held.popleft()
        if held:
            self._pending[stream] = held
        return message

    def _fresher(self, stream: Stream) -> Message | None:
        """The first message that is not late, or the newest where none comes soon.

        None where another publisher of the same topic has something fresher. Only waiting counts
        as time, not what it takes to take in all that came while this process stood, nor that it
        stands again.
        """
        waited_s = 0.0
        for _ in range(MAX_STEPS):
            if not stream.is_late or waited_s >= FRESHER_S:
                break
            start_s = time.monotonic()
            is_there = self._wait(STEP_S)
            waited_s += min(time.monotonic() - start_s, STEP_S)
            if is_there:
                self._take_in()
        message = self._next(stream)
        if stream.is_late:
            stream.settle()
            if any(other.topic == stream.topic for other in self._pending):
                stream.count["superseded"] += 1
                return None
        return message

    def _item(self, message: Message) -> Frame | Result:
        if not isinstance(message, FrameMessage):
            return result_of(message)
        header = message.header
        return Frame(self._image(message), header.stamp_ns, header.seq, header.camera)

    def _image(self, message: FrameMessage) -> Image:
        header, reference = message.header, message.reference
        if reference is not None:
            return self._ring(reference.ring).read(reference, header.height, header.width)
        if header.kind == "raw":
            return payload.decode_raw(header, message.payload)
        return payload.decode_jpeg(header, message.payload)

    def _ring(self, ring: str) -> RingReader:
        reader = self._rings.get(ring)
        if reader is None:
            # Those of writers that have ended hold memory that nobody else needs any more.
            kept = {key: one for key, one in self._rings.items() if not one.is_abandoned}
            while len(kept) >= MAX_RINGS:
                del kept[next(iter(kept))]
            self._rings = kept
            reader = self._rings[ring] = RingReader(ring)
            line = connect(ring) if not self._turn and ring not in self._lines else None
            if line is not None:
                self._lines[ring] = line
        return reader

    def _clock(self, header: Envelope, peer: str) -> ClockOffset | None:
        """How far the stamp's clock is ahead: by way of the sender's."""
        stamp = ClockOffset(header.clock_offset_ns, header.clock_error_ns)
        sender: ClockOffset | None = SAME_CLOCK
        if not is_loopback(peer):
            sender = self._ask_clock(header.clock_port, peer) if header.clock_port else None
        return sender.plus(stamp) if sender is not None else None

    def _ask_clock(self, port: int, peer: str) -> ClockOffset | None:
        client = self._clocks.get(peer)
        if client is not None and client.port != port:
            if not self._is_time(f"clock {peer}"):
                return None
            client.close()
            client = None
        if client is None:
            if len(self._clocks) >= MAX_CLOCKS:
                return None
            host = f"[{peer}]" if ":" in peer else peer
            address = self._endpoint.addresses[0]
            client = self._clocks[peer] = ClockClient(host, port, address, self._security)
        return client.estimate()

    def _warn(self, kind: str, text: str, *arguments: Any) -> None:
        """Log a warning, but of each kind not more than one in `WARN_EVERY_S`."""
        if self._is_time(kind):
            log.warning(text, *arguments)

    def _is_time(self, kind: str) -> bool:
        now_s = time.monotonic()
        if now_s - self._warned_at_s.get(kind, -WARN_EVERY_S) < WARN_EVERY_S:
            return False
        self._warned_at_s[kind] = now_s
        return True


def _here() -> str:
    return "localhost"
