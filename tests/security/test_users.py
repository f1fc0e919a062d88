"""Other users of this machine receive no frame, and nothing that they send is accepted."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time

import numpy as np
import pytest

from pipeline.transport import Publisher, Security, Subscriber
from pipeline.transport.access import local_users
from pipeline.transport.access.local_users import is_trusted, user_at
from pipeline.types import Frame
from tests.security.other_user import NOBODY, as_nobody, needs_second_user, shared_folder

WAIT_S = 30.0
REFUSAL_S = 0.5
OPEN = Security(insecure=True)
KINDS = ["path", "abstract name", "loopback"] if os.geteuid() == 0 else ["path"]


def frame(value, seq=0):
    return Frame(np.full((4, 4, 3), value, np.uint8), time.time_ns(), seq, "front")


@pytest.fixture(params=KINDS)
def address(request):
    """An address that every user of this machine can reach."""
    if request.param == "path":
        with shared_folder() as folder:
            yield f"zmq+ipc://{folder}/camera"
    elif request.param == "abstract name":
        yield f"zmq+ipc://@vision-test-{os.getpid()}-{time.monotonic_ns()}"
    else:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield f"zmq+tcp://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def loaded():
    """Load what publishing and subscribing need, which another user may not be able to read."""
    with (
        Publisher("zmq+tcp://127.0.0.1:0", payload="raw", security=OPEN) as publisher,
        Subscriber(f"zmq+{publisher.endpoint}", security=OPEN) as subscriber,
    ):
        assert values_received(subscriber, WAIT_S, publisher) == {0}


def values_received(subscriber, wait_s, publisher=None):
    """The pixel values of the frames that arrive within the time, or until one arrives."""
    deadline, values = time.monotonic() + wait_s, set()
    while time.monotonic() < deadline and not values:
        if publisher is not None:
            publisher.send_frame(frame(0))
        received = subscriber.receive(0.02)
        if received is not None:
            values.add(int(received.item.image[0, 0, 0]))
    return values


def open_to_all(address):
    """Let every user connect to a socket at a path, as a umask of 0 would."""
    path = address.removeprefix("zmq+ipc://")
    if os.path.lexists(path):
        os.chmod(path, 0o777)  # noqa: S103


def publish_as_nobody(address):
    """What another user does who has taken an address first: it sends frames with the value 66."""

    def act(say, told):
        with Publisher(address, payload="raw", security=OPEN) as publisher:
            open_to_all(address)
            say("bound")
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                publisher.send_frame(frame(66))
                time.sleep(0.01)

    return act


def subscribe_as_nobody(address, security=OPEN):
    """What another user does who wants to watch."""

    def act(say, told):
        with Subscriber(address, security=security) as subscriber:
            say("connected")
            told()
            say(sorted(values_received(subscriber, 3 * REFUSAL_S)))

    return act


# --- whose images are accepted --------------------------------------------------------------------


@needs_second_user
@pytest.mark.parametrize("is_open", [False, True], ids=["secure", "insecure"])
def test_frames_of_another_user_are_refused(address, caplog, is_open):
    with as_nobody(publish_as_nobody(address)) as nobody, caplog.at_level(logging.WARNING):
        assert nobody.readline() == "bound\n"
        with Subscriber(address, security=Security(insecure=is_open)) as subscriber:
            wait_s = WAIT_S if is_open else REFUSAL_S
            assert values_received(subscriber, wait_s) == ({66} if is_open else set())
    assert ("user 65534" in caplog.text) == (not is_open)


@needs_second_user
def test_the_right_publisher_is_received_once_the_other_user_has_gone(address):
    with as_nobody(publish_as_nobody(address)) as nobody:
        assert nobody.readline() == "bound\n"
        subscriber = Subscriber(address)
        assert values_received(subscriber, REFUSAL_S) == set()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address.removeprefix("zmq+ipc://"))
    with subscriber, Publisher(address, payload="raw") as publisher:
        assert values_received(subscriber, WAIT_S, publisher) == {0}


@needs_second_user
def test_frames_that_another_user_sends_to_a_bound_subscriber_are_refused(address):
    with Subscriber(f"{address}?bind") as subscriber:
        open_to_all(address)

        def act(say, told):
            with Publisher(f"{address}?connect", payload="raw", security=OPEN) as publisher:
                say("connected")
                end = time.monotonic() + WAIT_S
                while time.monotonic() < end:
                    publisher.send_frame(frame(66))
                    time.sleep(0.01)

        with as_nobody(act) as nobody:
            assert nobody.readline() == "connected\n"
            assert values_received(subscriber, REFUSAL_S) == set()
            with Publisher(f"{address}?connect", payload="raw") as publisher:
                assert values_received(subscriber, WAIT_S, publisher) == {0}


# --- who can watch --------------------------------------------------------------------------------


@needs_second_user
@pytest.mark.parametrize("is_open", [False, True], ids=["secure", "insecure"])
def test_another_user_receives_no_frame(address, is_open):
    with Publisher(address, payload="raw", security=Security(insecure=is_open)) as publisher:
        open_to_all(address)
        with (
            as_nobody(subscribe_as_nobody(address)) as nobody,
            Subscriber(address, security=Security(insecure=is_open)) as own,
        ):
            assert nobody.readline() == "connected\n"
            assert values_received(own, WAIT_S, publisher) == {0}
            nobody.write("go\n")
            nobody.flush()
            end = time.monotonic() + 3 * REFUSAL_S
            while time.monotonic() < end:
                publisher.send_frame(frame(0))
                time.sleep(0.01)
            assert nobody.readline() == ("[0]\n" if is_open else "[]\n")


@needs_second_user
def test_a_publisher_that_connects_sends_nothing_to_another_user(address):
    def act(say, told):
        with Subscriber(f"{address}?bind", security=OPEN) as subscriber:
            open_to_all(address)
            say("bound")
            say(sorted(values_received(subscriber, 2 * REFUSAL_S)))

    with as_nobody(act) as nobody:
        assert nobody.readline() == "bound\n"
        with Publisher(f"{address}?connect", payload="raw") as publisher:
            end = time.monotonic() + 2 * REFUSAL_S
            while time.monotonic() < end:
                assert not publisher.wants_frames("front")
                publisher.send_frame(frame(0))
                time.sleep(0.01)
        assert nobody.readline() == "[]\n"


@needs_second_user
def test_every_user_trusts_root(address):
    with Publisher(address, payload="raw", security=OPEN) as publisher:
        open_to_all(address)
        with as_nobody(subscribe_as_nobody(address, Security())) as nobody:
            assert nobody.readline() == "connected\n"
            nobody.write("go\n")
            nobody.flush()
            end = time.monotonic() + 3 * REFUSAL_S
            while time.monotonic() < end:
                publisher.send_frame(frame(7))
                time.sleep(0.01)
            assert nobody.readline() == "[7]\n"


# --- how a user is known --------------------------------------------------------------------------


def test_this_user_and_root_are_trusted(monkeypatch):
    monkeypatch.setattr(local_users.os, "geteuid", lambda: 1000)
    assert [is_trusted(user) for user in (0, 1000, 1001, NOBODY, None)] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.fixture(params=["127.0.0.1", "::1", "mapped"])
def listener(request):
    """A listening socket, and the host to connect to."""
    host = request.param
    family = socket.AF_INET if host == "127.0.0.1" else socket.AF_INET6
    with contextlib.closing(socket.socket(family)) as made:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host == "::1"))
        try:
            made.bind(("::" if host == "mapped" else host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        made.listen()
        made.settimeout(WAIT_S)
        yield made, (host if host == "::1" else "127.0.0.1", made.getsockname()[1])


def test_the_user_at_the_other_end_of_a_connection_is_known(listener):
    listening, place = listener
    with contextlib.closing(socket.create_connection(place)) as client:
        accepted, _ = listening.accept()
        with contextlib.closing(accepted):
            assert user_at(accepted) == user_at(client) == os.geteuid()
            client.close()
            assert user_at(accepted) is None  # the kernel does not know it any more


@needs_second_user
def test_another_user_at_the_other_end_is_known(listener):
    listening, place = listener
    family = listening.family if place[0] == "::1" else socket.AF_INET

    def act(say, told):
        with contextlib.closing(socket.socket(family)) as client:
            client.connect(place)
            say(user_at(client))
            say("connected")
            told()
            say(user_at(client))
            told()

    with as_nobody(act) as nobody:
        assert nobody.readline() == "None\n"  # nobody has accepted it
        assert nobody.readline() == "connected\n"
        accepted, _ = listening.accept()
        with contextlib.closing(accepted):
            assert user_at(accepted) == NOBODY
            nobody.write("go\n")
            nobody.flush()
            assert nobody.readline() == f"{os.geteuid()}\n"


def test_the_user_at_a_unix_socket_is_known():
    here, there = socket.socketpair()
    with contextlib.closing(here), contextlib.closing(there):
        assert user_at(here) == os.geteuid()
