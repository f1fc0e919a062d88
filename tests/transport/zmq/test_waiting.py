"""Subscriptions that start before their publisher, and the messages that reach them at the end."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.transport import Publisher, ResultSubscription, Subscriber, subscribe_frames
from pipeline.transport.zmq import receiver as subscription
from pipeline.transport.zmq import results as results_of
from pipeline.transport.zmq.subscriber import Received
from pipeline.types import Detections, Frame, Result

WAIT_S = 30.0


def frame(seq=0, camera="front"):
    return Frame(np.full((48, 64, 3), seq % 251, np.uint8), time.time_ns(), seq, camera)


def found_in(sent):
    return Result(sent.header, Detections.empty(("thing",)))


@pytest.fixture
def collected(await_true):
    """Reads the items of a subscription into a list, in a separate thread."""
    threads = []

    def collect(read):
        got = []
        thread = threading.Thread(target=lambda: got.extend(iter(read, None)))
        thread.start()
        threads.append(thread)
        return got

    yield collect
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_a_subscription_waits_for_its_publisher_and_logs_it(
    address, collected, await_true, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(subscription, "SILENT_S", 0.2)
    with subscribe_frames([address]) as source:
        got = collected(source.read)
        await_true(lambda: "no message comes; waiting" in caplog.text)
        with Publisher(address) as sender:
            await_true(lambda: sender.send_frame(frame()) and got)
        await_true(lambda: "messages come again" in caplog.text)
        await_true(lambda: "no message comes any more" in caplog.text)
    assert caplog.text.count("no message comes; waiting") == 1


def test_an_invalid_address_is_refused_before_reading():
    with pytest.raises(ConfigError, match="vision keys"):
        subscribe_frames(["zmq+tcp://192.0.2.7:5555"])


def test_cameras_come_in_turn_as_soon_as_there_are_two(address, collected, await_true):
    with subscribe_frames([address]) as source, Publisher(address, streams=16) as sender:
        got = collected(source.read)
        numbers = itertools.count()

        def publish():
            for camera in ("left", "right"):  # the right one is always the newer
                sender.send_frame(frame(next(numbers), camera))

        await_true(lambda: publish() or len({item.camera for item in got}) == 2)
        held = len(got)
        for _ in range(5):
            publish()
        seen = []
        while len(seen) < 10:
            before = len(got)
            publish()  # only here, so that none is lost and only the turn decides
            source.done()
            await_true(lambda before=before: len(got) > before)
            seen.append(got[-1].camera)
        publish()
        time.sleep(0.2)  # what must not happen has no event to wait for
        assert len(got) == held + len(seen)
    assert seen.count("left") == pytest.approx(5, abs=1)


def test_frames_without_results_are_returned_alone_after_a_while(address, monkeypatch, await_true):
    monkeypatch.setattr(results_of, "ALONE_S", 0.2)
    with (
        Publisher(address, streams=2) as sender,
        ResultSubscription(address, images=True, frames_alone=True) as results,
    ):

        def exchange(*, with_result):
            sent = Frame(frame(7).image, time.monotonic_ns(), 7, "front")
            sender.send_frame(sent)
            if with_result:
                sender.send_result(found_in(sent))
            return results.receive(0.05)

        alone = await_true(lambda: exchange(with_result=False))
        assert (alone.image == 7).all()
        assert not alone.detections.labels
        answer = await_true(
            lambda: (
                (got := exchange(with_result=True))
                and got.detections.labels
                and got.image is not None
                and got
            )
        )
        for _ in range(5):  # an earlier result may still come, and then counts as an answer
            got = exchange(with_result=False)
            if got is not None and not got.detections.labels:
                since_ns = time.monotonic_ns() - answer.header.stamp_ns
                assert since_ns > results_of.ALONE_S * 1e9


def test_after_a_pause_of_the_camera_its_frames_still_wait_for_their_results(address, await_true):
    with (
        Publisher(address, streams=2) as sender,
        ResultSubscription(address, images=True, frames_alone=True) as results,
    ):

        def exchange():
            sent = frame(7)
            sender.send_frame(sent)
            sender.send_result(found_in(sent))
            return results.receive(0.05)

        assert await_true(exchange).detections.labels
        while results.receive(1.2 * results_of.ALONE_S) is not None:
            pass  # messages from before the first answer
        assert await_true(exchange).detections.labels


def test_a_frame_behind_its_result_waits_for_no_other(address, monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(results_of.time, "monotonic", lambda: now_s)
    with ResultSubscription(address, images=True, frames_alone=True) as results:

        def take(item):
            results._take(Received(item, item.header, None))

        first, second, third = (frame(seq) for seq in range(3))
        take(found_in(first))
        take(first)
        now_s += 2 * results_of.ALONE_S
        take(second)
        assert [one.header.seq for one in results._ready] == [0]
        now_s += 2 * results_of.ALONE_S
        take(third)
        assert [one.header.seq for one in results._ready] == [0, 2]


def test_closing_with_a_flush_time_delivers_the_last_messages(address, await_true):
    with Subscriber(address, every=True) as receiver:
        sender = Publisher(address, payload="raw")
        await_true(sender.has_subscribers)
        for seq in (0, 1):
            sender.send_frame(frame(seq))
        sender.close(flush_s=2.0)
        got = [receiver.receive(WAIT_S).item.seq for _ in range(2)]
    assert got == [0, 1]


def test_a_publisher_knows_whether_it_has_subscribers(address, await_true):
    with Publisher(address) as sender:
        assert not sender.has_subscribers()
        with Subscriber(address):
            await_true(sender.has_subscribers)
        await_true(lambda: not sender.has_subscribers())


def test_the_log_names_missing_messages(address, collected, await_true, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(subscription, "SILENT_S", 0.2)
    monkeypatch.setattr(results_of, "SILENT_S", 0.2)
    with Publisher(address) as sender:
        with ResultSubscription(address) as results:
            collected(results.read)
            await_true(lambda: "no result comes; waiting" in caplog.text)
        with ResultSubscription(address, images=True) as results:
            collected(results.read)
            await_true(
                lambda: (
                    sender.send_frame(frame()) is None
                    or "frames of front come, but no result on them" in caplog.text
                )
            )
    assert caplog.text.count("but no result on them") == 1


def test_results_without_frames_of_ever_new_cameras_take_no_memory(address):
    with ResultSubscription(address, images=True) as results:
        for number in range(3 * results_of.MAX_CAMERAS):
            found = found_in(Frame(frame().image, 1, 0, f"camera_{number}"))
            results._take(Received(found, found.header, None))
        assert len(results._answered) <= results_of.MAX_CAMERAS
