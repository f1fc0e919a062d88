"""References to shared memory that name something else than a ring of this user."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

import msgspec
import pytest

from pipeline.transport import Limits, Subscriber
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import OutOfReach, RingReader, RingWriter
from tests.faults.processes import wait_for
from tests.security.messages import frame_message, peer

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="rings need Linux with /dev/shm"
)
WAIT_S = 10.0


@pytest.fixture
def ring():
    """The id of a ring whose file does not exist yet; what a test puts there is removed."""
    ring = f"{os.getpid()}-{secrets.token_hex(8)}"
    yield ring
    Path(ring_file.path_of(ring)).unlink(missing_ok=True)


def refusal(ring, **options):
    """The message of the error that opening the ring raises within `WAIT_S`."""
    said = []

    def read():
        with contextlib.suppress(OSError):
            try:
                RingReader(ring, **options)
            except OutOfReach as error:
                said.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive(), "opening the file waits"
    return said[0] if said else None


def test_a_fifo_is_refused_without_waiting(ring):
    os.mkfifo(ring_file.path_of(ring))
    assert "not a regular file" in refusal(ring)


def test_a_link_is_not_followed(ring, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    Path(ring_file.path_of(ring)).symlink_to(tmp_path / "fifo")
    assert "cannot be opened" in refusal(ring)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_a_ring_of_another_user_is_refused():
    with contextlib.closing(RingWriter(4096)) as writer:
        os.chown(ring_file.path_of(writer.ring), 65534, -1)
        assert "belongs to another user" in refusal(writer.ring)


def test_a_file_of_another_size_than_it_states_is_not_mapped():
    with contextlib.closing(RingWriter(4096)) as writer:
        os.truncate(ring_file.path_of(writer.ring), 1 << 40)
        assert "another layout" in refusal(writer.ring)


def test_slots_larger_than_any_accepted_frame_are_not_mapped():
    with contextlib.closing(RingWriter(4096, slots=2)) as writer:
        assert "--max-frame-mb" in refusal(writer.ring, max_slot_bytes=4095)
        assert refusal(writer.ring, max_slot_bytes=4096) is None


def test_a_named_fifo_does_not_stop_the_frames_of_others(ring, tmp_path):
    os.mkfifo(ring_file.path_of(ring))
    address = f"zmq+ipc://{tmp_path}/socket"
    reference = msgspec.msgpack.encode({"ring": ring, "slot": 0, "generation": 2})
    received = []

    def receive(subscriber):
        while not received:
            got = subscriber.receive(0.1)
            if got is not None:
                received.append(got.item.seq)

    with (
        Subscriber(f"{address}?bind", limits=Limits(1)) as subscriber,
        peer(address) as stranger,
        peer(address) as honest,
    ):
        thread = threading.Thread(target=receive, args=[subscriber], daemon=True)
        thread.start()

        def exchange():
            stranger.send_multipart(frame_message(reference, "shm", sender=2))
            honest.send_multipart(frame_message(seq=7))
            return received and subscriber.counts["frame/front"]["gone"]

        wait_for(exchange, "a frame behind the reference to the FIFO", WAIT_S)
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert received == [7]
