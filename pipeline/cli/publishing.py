"""Results and their frames, sent to whoever has subscribed to them: the output of `--publish`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from pipeline.cli.inputs import publisher_security
from pipeline.errors import ConfigError
from pipeline.runtime.frame_age import UNKNOWN_NS
from pipeline.settings import Settings
from pipeline.transport import Publisher, is_address
from pipeline.transport.address import parse_address
from pipeline.transport.shm.ring_file import is_available, remove_leftovers
from pipeline.types import SAME_CLOCK, ClockOffset, Result

FLUSH_S = 0.5
POLL_S = 0.05
UNKNOWN_CLOCK = ClockOffset(0, UNKNOWN_NS)

logger = logging.getLogger(__name__)


class Publishing:
    """Sends each frame and then its result; a plain frame of a camera has none.

    Made and used by one thread. Raises `ConfigError` where the address cannot be used.
    """

    def __init__(self, settings: Settings, *, with_results: bool) -> None:
        if settings.publish is None:
            raise ConfigError("--publish ADDRESS is missing; it says where the frames are sent")
        _check_address(settings.publish, [*settings.subscribe, str(settings.source)])
        self._with_results = with_results
        self._source: object = None
        self._publisher = Publisher(
            settings.publish,
            payload=settings.payload,
            quality=settings.quality,
            streams=(2 if with_results else 1) * max(1, len(settings.subscribe)),
            security=publisher_security(settings),
        )
        self.counts = self._publisher.counts
        if is_available():  # else they would lie there until somebody wants pictures from here
            remove_leftovers()
        logger.info("publishing at zmq+%s", self._publisher.endpoint)

    def start(self, source: object) -> None:
        """From now on the frames are those of `source`, by its clock."""
        self._source = source

    def await_subscriber(self) -> None:
        """Wait until somebody has subscribed; a signal breaks it off."""
        while not self._publisher.has_subscribers():
            threading.Event().wait(POLL_S)

    def write(self, result: Result) -> None:
        camera = result.header.camera
        clock = self._clock(camera)
        if result.frame is not None:
            self._publisher.send_frame(result.frame, clock)
        if self._with_results:
            self._publisher.send_result(result, clock)

    def _clock(self, camera: str) -> ClockOffset:
        """The clock of the stamps: this machine's, unless the frames come from elsewhere."""
        clock_of = getattr(self._source, "clock_of", None)
        if clock_of is None:
            return SAME_CLOCK
        offset: ClockOffset | None = clock_of(camera)
        return offset or UNKNOWN_CLOCK

    def close(self) -> None:
        """Close, once what was sent last has left for its subscribers or `FLUSH_S` is over."""
        self._publisher.close(flush_s=FLUSH_S)


def _check_address(publish: str, sources: Iterable[str]) -> None:
    """Raise `ConfigError` where it chooses a camera, or is one that the frames come from."""
    address = parse_address(publish)
    if address.camera is not None:
        raise ConfigError(
            f"--publish {publish}: names a camera, and a camera's name comes with its frames; "
            f"leave it out (vision camera and run take --camera NAME)"
        )
    for source in sources:
        if is_address(source) and parse_address(source).endpoint == address.endpoint:
            raise ConfigError(f"--publish {publish}: is where the frames come from; choose another")
