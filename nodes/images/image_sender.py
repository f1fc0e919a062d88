"""Publishes images from a thread of its own, so that they hardly delay detections."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from pipeline.runtime.mailbox import Closed, Mailbox

JOIN_S = 1.0  # a publisher that blocks for longer is left behind
SLOW = 3.0  # times the usual duration of a job
SLOW_S = 0.03
REST = 10.0  # times the duration of a slow job, without images


class ImageSender:
    """Runs the newest of the jobs that it gets; an older one that still waits is dropped.

    A subscriber that does not read, such as a stopped viewer, blocks a reliable publisher for up to
    0.1 s, and rclpy holds the interpreter's lock meanwhile: no other thread runs. So after a job
    that took much longer than usual, images rest for ten times as long. `dropped` counts the images
    that this costs. `log` is a node's logger.
    """

    def __init__(self, log: Any) -> None:
        self._jobs: Mailbox[Callable[[], None]] = Mailbox(1, newest_wins=True)
        self._log = log
        self._closed = threading.Event()
        self._usual_s = float("inf")
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="images", daemon=True)
        self._thread.start()

    def send(self, job: Callable[[], None]) -> None:
        """Run `job`, which publishes, on the thread; returns at once."""
        try:
            self.dropped += self._jobs.put(job) is not None
        except Closed:
            return  # the node is being cleaned up

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closed.set()
        self._jobs.cancel()
        self._thread.join(JOIN_S)

    def _rest_after(self, job_s: float) -> None:
        """Wait if a job was slow; otherwise learn how long one takes."""
        if job_s > SLOW * self._usual_s + SLOW_S:
            self._closed.wait(REST * job_s)
        else:
            is_first = self._usual_s == float("inf")
            self._usual_s = job_s if is_first else 0.9 * self._usual_s + 0.1 * job_s

    def _run(self) -> None:
        try:
            while True:
                job = self._jobs.get()
                started_s = time.monotonic()
                job()
                self._rest_after(time.monotonic() - started_s)
        except Closed:
            return
        except Exception:
            self._log.error(f"images are no longer published: {traceback.format_exc()}")
            self._jobs.cancel()
