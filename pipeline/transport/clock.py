"""How far another machine's clock is ahead of this one's, and how far that may be off.

A client notes the time t1, asks, and notes the time t4 of the answer; the answer holds the times t2
and t3 at which the server got the question and answered. Then the server's clock is ahead by
((t2 - t1) + (t3 - t4)) / 2, give or take half of the delay (t4 - t1) - (t3 - t2), whatever the way
there and the way back took (D. Mills, RFC 5905, section 8). Of the latest answers the one with the
least error is believed, where errors grow with age by what two clocks may drift apart.
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
from pipeline.transport.address import Address
from pipeline.transport.zmq.keys import Doorkeeper, Security, protect
from pipeline.transport.zmq.sockets import last_endpoint, new_context, set_common_options
from pipeline.types import ClockOffset

DRIFT = 100e-6  # two cheap quartzes: 100 s in a million
WINDOW = 32
TOLERATED_NS = 50_000_000
FIRST_INTERVAL_S = 0.05
INTERVAL_S = 1.0
QUICK_SAMPLES = 8
ANSWER_TIMEOUT_S = 1.0
POLL_MS = 50  # how often a thread looks whether it is to end
MAX_PART_BYTES = 1024  # of times few are needed, of the handshake before them more
LAST_NS = 2**62  # in the year 2116; what claims to be later is no time

_QUESTION = struct.Struct("<8sQ")  # magic, t1
_ANSWER = struct.Struct("<8sQQQ")  # magic, t1, t2, t3
_MAGIC = b"visclk01"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One question and its answer, times in ns; t1 and t4 on this clock, t2 and t3 on the other."""

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

    A sample that contradicts the others by more than all errors means that one of the clocks was
    set, and is believed alone.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[Sample, int]] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def add(self, sample: Sample, steady_ns: int) -> None:
        """Take a sample that came at `steady_ns` of a clock that nobody sets."""
        if sample.delay_ns < 0 or sample.t3 < sample.t2:
            return  # a clock was set between question and answer
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
    """Tells whoever asks what time it is here; a thread of its own.

    Listens beside `address`: on the port after its own where that is free, else on any. `port` is
    the one it got. Raises `ConfigError` where none can be had.
    """

    def __init__(
        self, address: Address, security: Security, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._now_ns = now_ns
        self._context = new_context()
        self._doorkeeper = (
            Doorkeeper(self._context, security.peers) if security.keys is not None else None
        )
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
        """Stop answering."""
        self._stop.set()
        self._thread.join()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
            self._doorkeeper = None
        self._context.term()

    def _run(self, address: Address, security: Security, opened: Future[int]) -> None:
        try:
            self._serve(address, security, opened)
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)  # whatever it is, somebody waits for it

    def _serve(self, address: Address, security: Security, opened: Future[int]) -> None:
        with self._context.socket(zmq.REP) as socket:
            set_common_options(socket)
            socket.maxmsgsize = MAX_PART_BYTES
            socket.ipv6 = address.host.startswith("[")
            protect(socket, address, security, bind=True)
            opened.set_result(_bind_beside(socket, address))
            while not self._stop.is_set():
                question = _received(socket)
                if question is not None:
                    socket.send(answer_to(question, self._now_ns))


def answer_to(question: bytes, now_ns: Callable[[], int]) -> bytes:
    """What a server says to a question; nothing to what is none."""
    t2 = now_ns()
    if len(question) != _QUESTION.size:
        return b""
    magic, t1 = _QUESTION.unpack(question)
    return _ANSWER.pack(_MAGIC, t1, t2, now_ns()) if magic == _MAGIC else b""


def read_answer(answer: bytes, t4: int) -> Sample | None:
    """What an answer that came at `t4` says; None where it is none."""
    if len(answer) != _ANSWER.size:
        return None
    magic, t1, t2, t3 = _ANSWER.unpack(answer)
    return Sample(t1, t2, t3, t4) if magic == _MAGIC and max(t1, t2, t3) < LAST_NS else None


class ClockClient:
    """Keeps asking a clock server; a thread of its own.

    `host` and `port` are where it is, `address` is where its messages come from. A clock that is
    more than 50 ms away is warned of. `estimate` may be called from any thread.
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
        """How far the other's clock is ahead; None as long as it has not answered."""
        return self._filter.estimate(time.monotonic_ns())

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def _run(self) -> None:
        with self._context.socket(zmq.REQ) as socket:
            set_common_options(socket)
            # A lost answer must not end the asking, and a late one must not be taken for another.
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
        """Wait for the answer; 1 where one came that counts."""
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


def _received(socket: zmq.Socket[bytes]) -> bytes | None:
    """Wait a moment for a message of one part; empty where it has several, None where none comes.

    What is there by `poll` may be an answer that comes too late, or no question, which the socket
    drops: then `recv` would wait for the next one, and the time be taken before that has come.
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
    raise ConfigError(f"clock of '{address.text}': no port can be had: {reason.strerror}")
