"""Publishes images from a thread of its own, so that they never delay detections."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from pipeline.runtime.mailbox import Closed, Mailbox

JOIN_S = 1.0  # a publisher that blocks for longer is left behind


class ImageSender:
    """Runs the newest of the jobs that it gets; an older one that still waits is dropped.

    A subscriber that does not read, such as a stopped viewer, blocks a reliable publisher. Here it
    costs images, which `dropped` counts. `log` is a node's logger.
    """

    def __init__(self, log: Any) -> None:
        self._jobs: Mailbox[Callable[[], None]] = Mailbox(1, newest_wins=True)
        self._log = log
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
        self._jobs.cancel()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            while True:
                self._jobs.get()()
        except Closed:
            return
        except Exception:
            self._log.error(f"images are no longer published: {traceback.format_exc()}")
            self._jobs.cancel()
