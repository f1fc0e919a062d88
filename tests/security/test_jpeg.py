"""JPEGs that take long to decode, or that are damaged and decode all the same."""

from __future__ import annotations

import logging
import os
import re
import threading
import time

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError
from pipeline.images import MAX_SCANS, coding, decode_image, decode_jpeg
from pipeline.images.headers import jpeg_size
from pipeline.transport import Subscriber
from pipeline.transport.wire import frames
from pipeline.transport.zmq import receiver as receiving
from pipeline.transport.zmq.receiver import Receiver
from tests.faults.processes import Command, wait_for
from tests.security.messages import frame_message, peer

END = b"\xff\xd9"
WAIT_S = 10.0


def photo(*flags):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (64, 48)), flags)[1].tobytes()


def with_scans(count):
    """A progressive JPEG of this many scans."""
    data = photo(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    starts = [found.start() for found in re.finditer(b"\xff\xda", data)]
    return data[:-2] + (count - len(starts)) * data[starts[-1] : -2] + END


def halved(data):
    """The first half of a JPEG, with an end mark so that it looks whole."""
    return data[: len(data) // 2] + END


@pytest.fixture(params=["simplejpeg", "opencv"])
def codec(request, monkeypatch):
    """Each of the two libraries that decode JPEGs."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(coding, "_simplejpeg", lambda: None)


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("decode", [decode_jpeg, decode_image])
def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(decode, monkeypatch):
    data = with_scans(300_000)
    monkeypatch.setattr(cv2, "imdecode", None)  # calling it fails
    start_s = time.process_time()
    with pytest.raises(FrameError, match=f"300000 scans; at most {MAX_SCANS}"):
        decode(data)
    assert time.process_time() - start_s < 1


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("decode", [decode_jpeg, decode_image])
def test_usual_progressive_jpegs_are_decoded(decode):
    assert decode(photo(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)).shape == (48, 64, 3)


def test_scans_of_a_sequential_jpeg_count_as_well():
    grey = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes()
    start = grey.index(b"\xff\xda")
    frame = re.search(b"\xff\xc0.{7}\x01", grey, re.DOTALL)
    # Two components are announced, so that the scan of one is not the only one.
    head = grey[: frame.end() - 1] + b"\x02" + grey[frame.end() : start]
    with pytest.raises(FrameError, match="scans"):
        decode_image(head + (MAX_SCANS + 1) * grey[start:-2] + END)


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xd0"], ids=["padding", "restarts"])
def test_a_long_beginning_is_given_up_soon(filler):
    start_s = time.process_time()
    assert jpeg_size(b"\xff\xd8" + filler * (16 << 20)) is None
    assert time.process_time() - start_s < 0.5


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("decode", [decode_jpeg, decode_image])
def test_half_a_jpeg_is_no_image_and_writes_nothing(decode, capfd):
    with pytest.raises(FrameError, match="premature end"):
        decode(halved(photo()))
    assert capfd.readouterr().err == ""


def test_what_others_write_to_standard_error_meanwhile_is_kept(capfd, monkeypatch):
    def decode(data, flags):
        os.write(2, b"first\nCorrupt JPEG data: premature end of data segment\n")
        os.write(2, b"second\n")
        return np.zeros((48, 64, 3), np.uint8)

    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(FrameError, match="damaged"):
        decode_image(photo())
    assert capfd.readouterr().err == "first\nsecond\n"


def test_threads_that_decode_at_once_learn_of_their_own_images(capfd):
    whole, half, wrong = photo(), halved(photo()), []

    def decode(data, is_whole):
        for _ in range(50):
            try:
                decode_image(data)
            except FrameError:
                wrong.extend([is_whole] * is_whole)
            else:
                wrong.extend([is_whole] * (not is_whole))

    threads = [
        threading.Thread(target=decode, args=(data, data is whole)) for data in (whole, half) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("codec")
def test_damaged_jpegs_are_counted_as_invalid_with_one_line(tmp_path, caplog):
    address = f"zmq+ipc://{tmp_path}/socket"
    payloads = [halved(photo()), with_scans(MAX_SCANS + 1)]
    with (
        Subscriber(f"{address}?bind") as subscriber,
        peer(address) as sender,
        caplog.at_level(logging.WARNING),
    ):
        count = subscriber.counts["frame/front"]

        def send():
            for payload in payloads:
                number = count["received"] + count["lost"]
                sender.send_multipart(frame_message(payload, "jpeg", count=number, seq=number))
                assert subscriber.receive(0.05) is None
            return count["invalid"] >= 6

        wait_for(send, "refusing the JPEGs", WAIT_S)
        assert count["received"] == count["invalid"]
    assert len(caplog.records) == 1


def test_closing_does_not_wait_for_a_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(receiving, "CLOSE_S", 0.05)
    address = f"zmq+ipc://{tmp_path}/socket"
    is_decoding, may_end = threading.Event(), threading.Event()

    def decode(header, payload):
        is_decoding.set()
        may_end.wait(WAIT_S)
        return np.zeros((48, 64, 3), np.uint8)

    monkeypatch.setattr(frames, "decode_jpeg", decode)
    receiver = Receiver(f"{address}?bind")
    reader = threading.Thread(target=receiver.receive)
    reader.start()
    try:
        with peer(address) as sender:

            def send():
                sender.send_multipart(frame_message(photo(), "jpeg"))
                return is_decoding.wait(0.05)

            wait_for(send, "decoding", WAIT_S)
            start_s = time.monotonic()
            receiver.close()
            assert time.monotonic() - start_s < WAIT_S / 2
    finally:
        may_end.set()
    reader.join(WAIT_S)
    assert not reader.is_alive()
    assert receiver._subscriber._endpoint.socket.closed


def test_detect_goes_on_and_ends_under_hostile_jpegs(tmp_path):
    address = f"zmq+ipc://{tmp_path}/socket"
    command = Command(
        *("detect", "--classifier", "none", "--quiet", "--subscribe", f"{address}?bind"),
        *("--jsonl", tmp_path / "found.jsonl", "--stats", tmp_path / "stats.json"),
        folder=tmp_path,
    )
    try:
        with peer(address) as hostile, peer(address) as honest:
            numbers = iter(range(100_000))

            def exchange():
                hostile.send_multipart(frame_message(with_scans(30_000), "jpeg", sender=2))
                hostile.send_multipart(frame_message(halved(photo()), "jpeg", sender=2))
                number = next(numbers)
                honest.send_multipart(frame_message(photo(), "jpeg", count=number, seq=number))
                time.sleep(0.02)
                found = tmp_path / "found.jsonl"
                return found.exists() and found.read_bytes().count(b"\n") > 5

            wait_for(exchange, "results")
            start_s = time.monotonic()
            assert command.end() == 0
            assert time.monotonic() - start_s < 5
    finally:
        command.kill()
    assert len(command.lines) <= 5, command.said
    assert "Corrupt JPEG" not in command.said


def test_a_jpeg_with_bytes_between_its_segments_states_no_size():
    data = photo()
    assert jpeg_size(data) == (64, 48)
    assert jpeg_size(data[:2] + b"\xff\x00" + data[2:]) is None
    with pytest.raises(FrameError, match="not a readable image"):
        decode_image(data[:2] + b"\xff\x00" + data[2:])
