"""Measures how far another machine's clock is ahead of this one's, and the error of that.

A client sends a request at time t1 and receives the answer at time t4; the answer holds the times
t2 and t3 at which the server received the request and answered. Then the server's clock is ahead
by ((t2 - t1) + (t3 - t4)) / 2, plus or minus half of the delay (t4 - t1) - (t3 - t2), however
asymmetric the network is (D. Mills, RFC 5905, section 8). Of the latest answers the one with the
least error is used; errors grow with age, because clocks drift.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from pipeline.errors import ConfigError
from pipeline.transport.address import Address, is_loopback
from pipeline.transport.zmq.keys import Security, protect
from pipeline.transport.zmq.peers.connections import Connections
from pipeline.transport.zmq.sockets import last_endpoint, new_context, set_common_options
from pipeline.types import ClockOffset

DRIFT = 100e-6  # of two cheap quartzes
WINDOW = 32
TOLERATED_NS = 50_000_000
FIRST_INTERVAL_S = 0.05
INTERVAL_S = 1.0
QUICK_SAMPLES = 8
ANSWER_TIMEOUT_S = 1.0
POLL_MS = 50  # how often a thread checks whether it was stopped
MAX_PART_BYTES = 1024  # a time needs less, the handshake before it more
MAX_CLOCKS = 16
REPLACE_EVERY_S = 10.0
LAST_NS = 2**62  # in the year 2116; later times are invalid

_QUESTION = struct.Struct("<8sQ")  # magic, t1
_ANSWER = struct.Struct("<8sQQQ")  # magic, t1, t2, t3
_MAGIC = b"visclk01"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One request and its answer, in ns; t1 and t4 on this clock, t2 and t3 on the other."""

    t1: int
    t2: int
    t3: int
    t4: int

    @property
    def offset_ns(self) -> int:
        return ((self.t2 - self.t1) + (self.t3 - self.t4)) // 2

    @property
    def delay_ns(self) -> int:
        return (self.t4 - self.t1) - (self.t3 - self.t2)


class OffsetFilter:
    """The best estimate from the newest `WINDOW` samples.

    A sample that differs from the others by more than all errors means that one of the clocks was
    set; the others are discarded.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[Sample, int]] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def add(self, sample: Sample, steady_ns: int) -> None:
        """Add a sample that arrived at `steady_ns` of the monotonic clock."""
        if sample.delay_ns < 0 or sample.t3 < sample.t2:
            return  # a clock was set between request and answer
        with self._lock:
            new = _error(sample, 0)
            for old, at_ns in self._samples:
                apart = abs(sample.offset_ns - old.offset_ns)
                if apart > new + _error(old, steady_ns - at_ns):
                    self._samples.clear()
                    break
            self._samples.append((sample, steady_ns))

    def estimate(self, steady_ns: int) -> ClockOffset | None:
        """The offset at `steady_ns`, None before the first sample."""
        with self._lock:
            if not self._samples:
                return None
            errors = [(_error(sample, steady_ns - at), sample) for sample, at in self._samples]
        error, best = min(errors, key=lambda pair: pair[0])
        return ClockOffset(best.offset_ns, error)


def _error(sample: Sample, age_ns: int) -> int:
    return sample.delay_ns // 2 + round(DRIFT * max(age_ns, 0)) + 1


class ClockServer:
    """Answers requests for this machine's time, in a thread of its own.

    Listens on the port after that of `address` if that is free, else on any; `port` is the one it
    listens on. Raises `ConfigError` if no port is available.
    """

    def __init__(
        self, address: Address, security: Security, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._now_ns = now_ns
        self._context = new_context()
        self._stop = threading.Event()
        opened: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(address, security, opened), name="clock", daemon=True
        )
        self._thread.start()
        try:
            self.port = opened.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def _run(self, address: Address, security: Security, opened: Future[int]) -> None:
        try:
            self._serve(address, security, opened)
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)  # the creating thread waits for it

    def _serve(self, address: Address, security: Security, opened: Future[int]) -> None:
        with self._context.socket(zmq.REP) as socket:
            set_common_options(socket)
            socket.maxmsgsize = MAX_PART_BYTES
            socket.ipv6 = address.host.startswith("[")
            protect(socket, address, security, bind=True)
            keys = security.peers if security.keys is not None else None
            connections = Connections(self._context, socket, keys, numbered=False)
            try:
                opened.set_result(_bind_beside(socket, address))
                while not self._stop.is_set():
                    question = _received(socket)
                    if question is not None:
                        socket.send(answer_to(question, self._now_ns))
            finally:
                connections.stop()


def answer_to(question: bytes, now_ns: Callable[[], int]) -> bytes:
    """A server's answer to a request; empty if the request is invalid."""
    t2 = now_ns()
    if len(question) != _QUESTION.size:
        return b""
    magic, t1 = _QUESTION.unpack(question)
    return _ANSWER.pack(_MAGIC, t1, t2, now_ns()) if magic == _MAGIC else b""


def read_answer(answer: bytes, t4: int) -> Sample | None:
    """The sample of an answer that arrived at `t4`; None if the answer is invalid."""
    if len(answer) != _ANSWER.size:
        return None
    magic, t1, t2, t3 = _ANSWER.unpack(answer)
    return Sample(t1, t2, t3, t4) if magic == _MAGIC and max(t1, t2, t3) < LAST_NS else None


class ClockClient:
    """Asks a clock server again and again, in a thread of its own.

    `host` and `port` are the server's, `address` is the one its messages come from. Logs a warning
    if the clocks differ by more than 50 ms. `estimate` may be called from any thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        address: Address,
        security: Security,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._host = host
        self.port = port
        self._address = address
        self._security = security
        self._now_ns = now_ns
        self._filter = OffsetFilter()
        self._stop = threading.Event()
        self._is_far = False
        self._context = new_context()
        self._thread = threading.Thread(target=self._run, name="clock-client", daemon=True)
        self._thread.start()

    def estimate(self) -> ClockOffset | None:
        """How far the other clock is ahead; None before the first answer."""
        return self._filter.estimate(time.monotonic_ns())

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def _run(self) -> None:
        with self._context.socket(zmq.REQ) as socket:
            set_common_options(socket)
            # Continue after a lost answer, and do not take a late answer for another.
            socket.req_relaxed = socket.req_correlate = True
            socket.maxmsgsize = MAX_PART_BYTES
            socket.ipv6 = self._host.startswith("[")
            protect(socket, self._address, self._security, bind=False)
            socket.connect(f"tcp://{self._host}:{self.port}")
            asked = 0
            while not self._stop.wait(FIRST_INTERVAL_S if asked < QUICK_SAMPLES else INTERVAL_S):
                with contextlib.suppress(zmq.Again):
                    socket.send(_QUESTION.pack(_MAGIC, self._now_ns()), zmq.NOBLOCK)
                    asked += self._hear(socket)

    def _hear(self, socket: zmq.Socket[bytes]) -> int:
        """Wait for the answer; returns 1 if a valid one came."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not self._stop.is_set() and time.monotonic() < deadline:
            answer = _received(socket)
            if answer is None:
                continue
            sample = read_answer(answer, self._now_ns())
            if sample is None:
                return 0
            self._filter.add(sample, time.monotonic_ns())
            self._judge()
            return 1
        return 0

    def _judge(self) -> None:
        estimate = self.estimate()
        if estimate is None:
            return
        is_far = abs(estimate.offset_ns) - estimate.error_ns > TOLERATED_NS
        if is_far and not self._is_far:
            log.warning(
                "the clock of %s is %.0f ms %s this machine's (within %.0f ms); ages are corrected "
                "for it, but set both clocks by NTP or PTP",
                self._host,
                abs(estimate.offset_ns) / 1e6,
                "ahead of" if estimate.offset_ns > 0 else "behind",
                estimate.error_ns / 1e6,
            )
        self._is_far = is_far


class RemoteClocks:
    """The clocks of the publishers that one subscriber receives from, by network address."""

    def __init__(self, address: Address, security: Security) -> None:
        self._address = address
        self._security = security
        self._clients: dict[str, ClockClient] = {}
        self._replaced_s: dict[str, float] = {}

    def offset(self, peer: str, port: int, stamp: ClockOffset) -> ClockOffset | None:
        """How far a clock is ahead of this machine's, which is `stamp` ahead of the peer's.

        `port` is where the peer's clock service is, 0 if it has none. None if not known (yet).
        """
        if is_loopback(peer):
            return stamp
        sender = self._ask(peer, port) if port else None
        return sender.plus(stamp) if sender is not None else None

    def _ask(self, peer: str, port: int) -> ClockOffset | None:
        client = self._clients.get(peer)
        if client is not None and client.port != port:
            now_s = time.monotonic()
            if now_s - self._replaced_s.get(peer, -REPLACE_EVERY_S) < REPLACE_EVERY_S:
                return None
            self._replaced_s[peer] = now_s
            client.close()
            client = None
        if client is None:
            if len(self._clients) >= MAX_CLOCKS:
                return None
            host = f"[{peer}]" if ":" in peer else peer
            client = self._clients[peer] = ClockClient(host, port, self._address, self._security)
        return client.estimate()

    def close(self) -> None:
        """Stop asking. Idempotent."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def _received(socket: zmq.Socket[bytes]) -> bytes | None:
    """Wait a moment for a message of one part; empty if it has several, None if none comes.

    `poll` may report a late answer or an invalid request, which the socket drops. A blocking `recv`
    would then wait for the next message, after the time was read.
    """
    try:
        parts = socket.recv_multipart(zmq.NOBLOCK) if socket.poll(POLL_MS) else []
    except zmq.Again:
        return None
    return (parts[0] if len(parts) == 1 else b"") if parts else None


def _bind_beside(socket: zmq.Socket[bytes], address: Address) -> int:
    wanted = int(address.endpoint.rpartition(":")[2]) + 1
    for port in (str(wanted), "*"):
        try:
            socket.bind(f"tcp://{address.host}:{port}")
        except zmq.ZMQError as error:
            reason = error
            continue
        got = int(last_endpoint(socket).rpartition(":")[2])
        if got != wanted:
            log.info("the clock service is on port %d, because %d is in use", got, wanted)
        return got
    raise ConfigError(f"clock of '{address.text}': no port is available: {reason.strerror}")
