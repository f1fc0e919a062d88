"""The other process of a test: publishes or receives until its standard input ends.

`peer.py publish ADDRESS KIND FPS CAMERA...`, `peer.py receive ADDRESS [DOZE_S]`, or
`peer.py member ADDRESS GROUP WORK_S`. It prints one JSON object per line: a receiver or member
one for each frame, and all of them the counts at the end. A publisher sends one more frame for
each line that it reads.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time

import numpy as np

from pipeline.transport import Publisher, Subscriber
from pipeline.types import Frame

SHAPE = (480, 640, 3)
LAST = 10**6  # the number of the first frame that it sends on request


def say(**fields):
    print(json.dumps(fields), flush=True)  # noqa: T201 - this is how it answers


class StopWatch:
    """Measures how long an action took, without the time for which the process was stopped."""

    TICK_S = 0.02

    def __init__(self):
        self._stood_s = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        last_s = time.monotonic()
        while True:
            time.sleep(self.TICK_S)
            now_s = time.monotonic()
            self._stood_s += max(now_s - last_s - 2 * self.TICK_S, 0.0)
            last_s = now_s

    def time(self, action):
        start_s, stood_s = time.monotonic(), self._stood_s
        action()
        took_s = time.monotonic() - start_s
        if took_s > 10 * self.TICK_S:
            time.sleep(5 * self.TICK_S)  # so that the other thread has measured a stop
            took_s -= self._stood_s - stood_s
        return took_s


def is_over():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def publish(address, kind, fps, *cameras):
    images = [np.full(SHAPE, value, np.uint8) for value in range(251)]
    start_s = time.monotonic()
    slowest_s, watch = 0.0, StopWatch()
    with Publisher(address, payload=kind, quality=50, streams=len(cameras)) as publisher:
        say(endpoint=publisher.endpoint)
        seq = 0

        def send():
            for camera in cameras:
                publisher.send_frame(Frame(images[seq % 251], time.time_ns(), seq, camera))

        while not is_over():
            slowest_s = max(slowest_s, watch.time(send))
            seq += 1
            time.sleep(max(start_s + seq / float(fps) - time.monotonic(), 0))
        for number, _ in enumerate(sys.stdin):
            for camera in cameras:
                publisher.send_frame(Frame(images[0], time.time_ns(), LAST + number, camera))
        counts = {topic: dict(count) for topic, count in publisher.counts.items()}
        say(counts=counts, slowest_ms=slowest_s * 1e3, seq=seq)


def receive(address, doze_s="0"):
    with Subscriber(address, streams=4) as subscriber:
        say(ready=True)
        if float(doze_s):  # after the first message, so that the queue fills
            while subscriber.receive(1) is None:
                pass
            say(dozing=True)
            time.sleep(float(doze_s))
        while not is_over():
            received = subscriber.receive(0.05)
            if received is not None:
                frame = received.item
                is_whole = bool((frame.image == frame.image[0, 0, 0]).all())
                age_ms = received.age_ns() / 1e6
                say(camera=frame.camera, seq=frame.seq, age_ms=age_ms, is_whole=is_whole)
        say(counts={topic: dict(count) for topic, count in subscriber.counts.items()})


def member(address, group, work_s):
    with Subscriber(address, group=group) as subscriber:
        say(ready=True)
        while not is_over():
            received = subscriber.receive(0.05)
            if received is not None:
                time.sleep(float(work_s))
                say(seq=received.item.seq, age_ms=received.age_ns() / 1e6)
        say(counts={topic: dict(count) for topic, count in subscriber.counts.items()})


if __name__ == "__main__":
    {"publish": publish, "receive": receive, "member": member}[sys.argv[1]](*sys.argv[2:])
