"""What the tests of publishers, subscribers and shared memory share."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.transport.shm.ring import RingWriter
from pipeline.types import Frame
from tests.waiting import wait_for

WAIT_S = 30.0


@pytest.fixture
def address(tmp_path):
    """An address that only this test uses."""
    return f"zmq+ipc://{tmp_path}/socket"


@pytest.fixture
def writer():
    """A ring of four slots for images of 64 x 48 pixels."""
    ring = RingWriter(48 * 64 * 3, slots=4)
    yield ring
    ring.close()


@pytest.fixture(scope="session")
def await_true():
    """Waits for a condition that other threads or processes fulfil; returns its value."""

    def wait(condition):
        return wait_for(condition, "what the test waits for", WAIT_S)

    return wait


@pytest.fixture(scope="session")
def exchanged(await_true):
    """Sends a frame repeatedly until the receiver gets the newest, which is returned.

    So no earlier message is in flight that could be mistaken for the next one.
    """

    def exchange(sender, receiver, frame=None):
        frame = frame or Frame(np.zeros((48, 64, 3), np.uint8), 1, 0, "front")
        topic = f"frame/{frame.camera}"

        def attempt():
            sender.send_frame(frame)
            while (received := receiver.receive(0.1)) is not None:
                newest = sender.counts[topic]["sent"] - 1
                if received.item.camera == frame.camera and received.header.count == newest:
                    return received
            return None  # also without a subscriber, to wait until one connects

        return await_true(attempt)

    return exchange
