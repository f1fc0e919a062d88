"""Other processes' frames as a source, and their results to iterate over."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

from pipeline.engine import Pipeline
from pipeline.errors import ConfigError, SourceError
from pipeline.sources import open_source
from pipeline.step import Step
from pipeline.transport import (
    Publisher,
    ResultSubscription,
    Subscriber,
    check_subscription,
    open_subscription,
)
from pipeline.transport.shm import rings
from pipeline.transport.shm.ring_file import OutOfReach
from pipeline.transport.zmq import subscriber
from pipeline.transport.zmq.sockets import Endpoint
from pipeline.types import Detections, Frame, Result

WAIT_S = 30.0


def frame(seq, camera="front"):
    return Frame(np.full((48, 64, 3), seq % 251, np.uint8), time.time_ns(), seq, camera)


class Sender:
    """Publishes frames, or frames with results, from a separate thread until it is closed."""

    def __init__(self, address, what="frames", fps=100, camera="front"):
        self._stop = threading.Event()
        arguments = (address, what, fps, camera)
        self._thread = threading.Thread(target=self._run, args=arguments)
        self._thread.start()

    def _run(self, address, what, fps, camera):
        with Publisher(address, streams=4) as publisher:
            for seq in count():
                if self._stop.wait(1 / fps):
                    return
                sent = frame(seq, camera)
                publisher.send_frame(sent)
                if what == "results":
                    publisher.send_result(Result(sent.header, Detections.empty(("thing",))))

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self._stop.set()
        self._thread.join()


class Finder(Step):
    """A detector that finds nothing."""

    name = "detect"

    def process(self, frame, result):
        return dataclasses.replace(result, detections=Detections.empty(("thing",)))


def test_each_frame_is_newer_than_the_last(address):
    with Sender(address), open_source(address) as source:
        assert source.live
        frames = [source.read() for _ in range(5)]
    seqs = [frame.seq for frame in frames]
    assert seqs == sorted(set(seqs))
    assert all((frame.image == frame.seq % 251).all() for frame in frames)
    assert source.counts()["received"]["frame/front"]["given"] == 5


@pytest.mark.parametrize(
    ("suffix", "camera", "source_name", "frame_name"),
    [
        ("", None, "cameras", "front"),
        ("?camera=front", None, "front", "front"),
        ("", "drone", "drone", "drone"),
    ],
    ids=["all", "one", "renamed"],
)
def test_frames_have_the_publishers_name_or_the_given_one(
    address, suffix, camera, source_name, frame_name
):
    with Sender(address), open_source(address + suffix, camera=camera) as source:
        assert source.camera == source_name
        assert source.read().camera == frame_name


def test_a_source_without_a_publisher_cannot_be_opened(address):
    with pytest.raises(SourceError, match=r"no frame came within 0\.2 s"):
        open_source(address, open_timeout_s=0.2)
    with (
        Sender(address, camera="rear"),
        pytest.raises(SourceError, match=r"no frame of front came within 0\.2 s"),
    ):
        open_source(f"{address}?camera=front", open_timeout_s=0.2)


@pytest.mark.parametrize("group", [None, "crew"])
def test_checking_an_address_does_not_subscribe(address, group, await_true, monkeypatch):
    looking: list[Endpoint] = []

    def close_later(self):  # so that a subscription would have time to arrive
        looking.append(self)

    monkeypatch.setattr(Endpoint, "close", close_later)
    with Publisher(address) as sender:
        check_subscription(address, group=group)
        monkeypatch.undo()
        with Subscriber(address, frames=False, results=True):
            await_true(lambda: sender.wants_results("front"))
            assert not sender.wants_frames("front")
            assert list(sender._subscriptions.prefixes) == [b"result/"]
    for endpoint in looking:
        endpoint.close()


@pytest.fixture
def opened(address, await_true):
    """A sender, a source that was opened while it sent, and the frames that follow."""
    frames = (frame(seq) for seq in count())
    with Publisher(address) as sender, ThreadPoolExecutor(1) as elsewhere:
        opening = elsewhere.submit(open_subscription, address, open_timeout_s=WAIT_S)
        await_true(lambda: sender.send_frame(next(frames)) and opening.done())
        with opening.result() as source:

            def read():
                reading = elsewhere.submit(source.read)
                await_true(lambda: sender.send_frame(next(frames)) and reading.done())
                return reading.result()

            yield sender, source, frames, read


def test_messages_during_opening_are_counted(opened):
    sender, source, frames, read = opened
    came, given = read(), 1
    newest = None
    while newest is None or came.seq < newest.seq:  # until nothing is in flight
        newest = next(frames)
        sender.send_frame(newest)
        came, given = source.read(), given + 1
    source.close()
    received, sent = (
        source.counts()["received"]["frame/front"],
        sender.counts["frame/front"]["sent"],
    )
    assert received["received"] + received["lost"] == sent
    assert received["given"] == given


def test_a_reader_that_starts_late_begins_with_a_new_frame(opened, monkeypatch):
    monkeypatch.setattr(subscriber, "LATE_S", 0.0)
    _, source, frames, read = opened
    before = next(frames)
    assert read().stamp_ns > before.stamp_ns
    assert source.counts()["received"]["frame/front"]["superseded"] > 0


def test_unreadable_frames_do_not_open_a_source(address, monkeypatch):
    def out_of_reach(ring, _):
        raise OutOfReach(f"ring {ring}: is in another container")

    monkeypatch.setattr(rings, "RingReader", out_of_reach)
    with Sender(address), pytest.raises(SourceError, match=r"no frame came within 0\.5 s"):
        open_source(address, open_timeout_s=0.5)


def test_an_interrupted_opening_releases_the_address(address, monkeypatch):
    def break_off(subscriber, timeout_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(Subscriber, "await_message", break_off)
    with pytest.raises(KeyboardInterrupt) as kept:
        open_subscription(f"{address}?bind")
    monkeypatch.undo()
    with pytest.raises(SourceError, match="no frame came"):
        open_subscription(f"{address}?bind", open_timeout_s=0.1)
    del kept


def test_an_invalid_camera_name_is_refused(address):
    with pytest.raises(ConfigError, match="camera name"):
        open_source(address, camera="a b")


def test_other_texts_than_addresses_are_captured(tmp_path):
    with pytest.raises(SourceError, match="none"):
        open_source(str(tmp_path / "none.mp4"))


def test_a_reader_that_waits_is_woken_by_closing(address):
    with Sender(address):
        source = open_subscription(address)
    got = []
    reader = threading.Thread(target=lambda: got.extend(iter(source.read, None)))
    reader.start()
    source.close()
    reader.join(WAIT_S)
    assert not reader.is_alive()
    source.close()
    assert source.read() is None


def test_the_publisher_may_restart(address):
    with Sender(address):
        source = open_subscription(address)
        before = source.read()
    with Sender(address):
        after = source.read()
        while after.stamp_ns < before.stamp_ns + 1 or after.seq > before.seq + 1000:
            after = source.read()
    assert after.stamp_ns > before.stamp_ns
    source.close()


def test_the_pipeline_runs_on_it_and_its_counts_add_up(address):
    with Sender(address):
        with Pipeline(open_source(address), Finder(), max_frames=10) as pipeline:
            results = list(pipeline)
        stats = pipeline.stats()
    assert len(results) == 10
    assert stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]


@pytest.mark.parametrize("images", [False, True])
def test_results_come_with_their_images_if_requested(address, images):
    with Sender(address, "results"), ResultSubscription(address, images=images) as results:
        seen = []
        for result in results:
            seen.append(result)
            if len(seen) == 20:
                results.stop()
    with_image = [result for result in seen if result.image is not None]
    assert bool(with_image) == images
    assert all((result.image == result.header.seq % 251).all() for result in with_image)
    seqs = [result.header.seq for result in seen]
    assert seqs == sorted(set(seqs))


def test_receiving_a_result_ends_at_its_timeout(address):
    with ResultSubscription(address) as results:
        started = time.monotonic()
        assert results.receive(0.2) is None
        assert time.monotonic() - started < WAIT_S / 2
