"""Estimating another machine's clock."""

from __future__ import annotations

import errno
import logging
import random
import threading
import time

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.transport import clock
from pipeline.transport.address import parse_address
from pipeline.transport.clock import (
    WINDOW,
    ClockClient,
    ClockServer,
    OffsetFilter,
    Sample,
    answer_to,
    read_answer,
)
from pipeline.transport.zmq.keys import Security, load_key_pair, make_keys
from pipeline.types import ClockOffset

MS = 1_000_000
WAIT_S = 30.0


def ask(offset_ns, at_ns, there_ns, back_ns):
    """A sample by two perfect clocks, the other one `offset_ns` ahead."""
    arrives = at_ns + there_ns
    return Sample(at_ns, arrives + offset_ns, arrives + offset_ns + 1000, arrives + 1000 + back_ns)


def fed(samples):
    estimator = OffsetFilter()
    for sample in samples:
        estimator.add(sample, sample.t4)
    return estimator


@pytest.mark.parametrize("seed", range(5))
def test_the_true_offset_is_within_the_error(seed):
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    offset = rng.randrange(-(10**12), 10**12)
    samples = [
        ask(offset, i * 1000 * MS, rng.randrange(10 * MS), rng.randrange(10 * MS))
        for i in range(50)
    ]
    estimator = fed(samples)
    estimate = estimator.estimate(samples[-1].t4)
    assert abs(estimate.offset_ns - offset) <= estimate.error_ns < 10 * MS


def test_the_quickest_answer_is_used_over_newer_slow_ones():
    samples = [ask(5 * MS, 0, 100_000, 100_000)]
    samples += [ask(5 * MS, i * 100 * MS, 30 * MS, 1 * MS) for i in range(1, 20)]
    estimate = fed(samples).estimate(samples[-1].t4)
    assert abs(estimate.offset_ns - 5 * MS) < 1 * MS


def test_the_estimate_follows_a_drifting_clock():
    estimator = OffsetFilter()
    for i in range(600):
        at = i * 1000 * MS
        sample = ask(round(50e-6 * at), at, MS // 2, MS // 2)
        estimator.add(sample, sample.t4)
        estimate = estimator.estimate(sample.t4)
        assert abs(estimate.offset_ns - round(50e-6 * sample.t4)) <= estimate.error_ns
    assert estimate.offset_ns > 25 * MS


@pytest.mark.parametrize("step_ms", [-3_600_000, -80, 80, 3_600_000])
def test_a_clock_that_is_set_is_followed_at_once(step_ms):
    samples = [ask(0, i * 1000 * MS, MS, MS) for i in range(WINDOW)]
    estimator = fed(samples)
    after = ask(step_ms * MS, (WINDOW + 1) * 1000 * MS, 2 * MS, MS)
    estimator.add(after, after.t4)
    assert abs(estimator.estimate(after.t4).offset_ns - step_ms * MS) <= 2 * MS


def test_the_error_grows_without_answers():
    sample = ask(0, 0, MS, MS)
    estimator = fed([sample])
    early, late = (estimator.estimate(sample.t4 + s * 1000 * MS).error_ns for s in (0, 100))
    assert late - early == pytest.approx(10 * MS, rel=0.01)


def test_impossible_answers_are_ignored():
    estimator = fed([Sample(100, 50, 40, 200), Sample(100, 0, 1000, 200)])
    assert estimator.estimate(300) is None


@given(st.binary(max_size=64) | st.binary(min_size=24, max_size=24).map(b"visclk01".__add__))
def test_the_estimate_is_in_range_for_any_answer(answer):
    estimator = OffsetFilter()
    now_ns = time.time_ns()
    sample = read_answer(answer, now_ns)
    if sample is not None:
        estimator.add(sample, 0)
    estimate = estimator.estimate(10**9)
    if estimate is not None:
        assert abs(estimate.offset_ns) <= 2**62
        assert 0 < estimate.error_ns < 2**63


@given(st.binary(max_size=64))
def test_a_request_is_answered_with_its_own_time_or_not_at_all(question):
    now_ns = time.time_ns()
    sample = read_answer(answer_to(question, time.time_ns), time.time_ns())
    assert sample is None or now_ns <= sample.t2 <= sample.t3 <= sample.t4
    asked = b"visclk01" + (now_ns).to_bytes(8, "little")
    assert read_answer(answer_to(asked, time.time_ns), time.time_ns()).t1 == now_ns


def test_offsets_add_up_along_a_chain_of_machines():
    assert ClockOffset(5, 2).plus(ClockOffset(-9, 3)) == ClockOffset(-4, 5)


@pytest.fixture
def server_and_client():
    address = parse_address("zmq+tcp://127.0.0.1:0")
    opened = []

    def make(ahead_ns, there=None, here=None):
        there, here = there or Security(), here or Security()
        server = ClockServer(address, there, lambda: time.time_ns() + ahead_ns)
        client = ClockClient("127.0.0.1", server.port, address, here)
        opened.extend([client, server])
        return server, client

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize("ahead_ms", [0, 2000, -2000])
def test_a_real_server_is_measured_and_a_far_clock_warned_of(
    server_and_client, caplog, ahead_ms, await_true
):
    with caplog.at_level(logging.WARNING):
        _, client = server_and_client(ahead_ms * MS)
        await_true(lambda: (e := client.estimate()) and e.error_ns < 20 * MS)
        if ahead_ms:
            await_true(lambda: "the clock of 127.0.0.1 is" in caplog.text)
    estimate = client.estimate()
    assert abs(estimate.offset_ns - ahead_ms * MS) <= estimate.error_ns
    assert ("the clock of" in caplog.text) == bool(ahead_ms)
    assert ("ms behind this" in caplog.text) == (ahead_ms < 0)


def test_the_clock_is_asked_under_the_same_keys(server_and_client, tmp_path, await_true):
    pairs = [load_key_pair(make_keys(tmp_path, name)[1]) for name in ("a", "b", "c")]
    there, here, other = (
        Security(pairs[i], (pairs[j].public,)) for i, j in ((0, 1), (1, 0), (2, 0))
    )
    server, client = server_and_client(0, there, here)
    await_true(client.estimate)
    stranger = ClockClient("127.0.0.1", server.port, parse_address("zmq+tcp://127.0.0.1:0"), other)
    time.sleep(0.5)  # what must not happen has no event to wait for
    assert stranger.estimate() is None
    stranger.close()


def test_invalid_requests_do_not_stop_the_server(server_and_client, await_true):
    server, client = server_and_client(0)
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(WAIT_S * 1000)
        socket.connect(f"tcp://127.0.0.1:{server.port}")
        for question in ([b""], [b"x" * 16], [b"visclk01"], [b"visclk01", bytes(8)]):
            socket.send_multipart(question)
            assert socket.recv() == b""
    await_true(client.estimate)


def ends(one):
    """Whether closing comes to an end."""
    closing = threading.Thread(target=one.close, daemon=True)
    closing.start()
    closing.join(WAIT_S)
    return not closing.is_alive()


@pytest.fixture
def slow_server(monkeypatch):
    """A server's socket whose answers come after they were given up, and a client of it."""
    monkeypatch.setattr(clock, "ANSWER_TIMEOUT_S", 0.1)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(WAIT_S * 1000)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        client = ClockClient(
            "127.0.0.1", port, parse_address(f"zmq+tcp://127.0.0.1:{port}"), Security()
        )
        yield socket, client
        assert ends(client)


def test_a_late_answer_is_not_taken_for_the_next_one(slow_server):
    socket, client = slow_server

    def answer(asked):
        socket.send_multipart([*asked[:-1], answer_to(asked[-1], time.time_ns)])

    while client.estimate() is None:
        first, second = socket.recv_multipart(), socket.recv_multipart()
        answer(first)
        time.sleep(0.05)  # the first has arrived, and the second is still waited for
        answer(second)
        time.sleep(0.05)
    estimate = client.estimate()
    assert abs(estimate.offset_ns) <= estimate.error_ns


def test_a_client_can_be_closed_after_a_late_answer(slow_server):
    socket, _ = slow_server
    first, _ = socket.recv_multipart(), socket.recv_multipart()
    socket.send_multipart([*first[:-1], answer_to(first[-1], time.time_ns)])
    time.sleep(0.2)  # for it to arrive


def test_a_server_can_be_closed_after_half_a_request():
    server = ClockServer(parse_address("zmq+tcp://127.0.0.1:0"), Security())
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{server.port}")
        for _ in range(3):
            socket.send(b"without an envelope")
            time.sleep(0.1)  # for it to arrive
        assert ends(server)


def test_the_next_port_is_used_if_it_is_free():
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        server = ClockServer(parse_address(f"zmq+tcp://127.0.0.1:{port}"), Security())
        assert server.port in {port + 1, server.port}
        other = ClockServer(parse_address(f"zmq+tcp://127.0.0.1:{port}"), Security())
        assert other.port not in {port, server.port}
        server.close()
        other.close()


def test_no_port_at_all_is_an_error():
    with pytest.raises(ConfigError, match="no port is available"):
        ClockServer(parse_address("zmq+tcp://192.0.2.1:5000"), Security(insecure=True))


def test_a_clock_that_cannot_start_raises(monkeypatch):
    def fail(*_):
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr("pipeline.transport.clock.set_common_options", fail)
    with pytest.raises(zmq.ZMQError):
        ClockServer(parse_address("zmq+tcp://127.0.0.1:0"), Security())
