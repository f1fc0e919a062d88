"""The output of `--publish`: sends results and their frames to subscribers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.output.output import Output, OutputKind
from pipeline.settings import NO_MODEL, Payload, Settings
from pipeline.source import Source
from pipeline.transport import Publisher, Security, is_address, load_key_pair, load_peers
from pipeline.transport.address import parse_address
from pipeline.transport.shm.ring_file import is_available, remove_leftovers
from pipeline.types import SAME_CLOCK, UNKNOWN_CLOCK, ClockOffset, Result

FLUSH_S = 0.5
POLL_S = 0.05

logger = logging.getLogger(__name__)


class Publishing(Output):
    """Sends each frame, and its result if `with_results`, to the subscribers at an address.

    - `payload`, `quality`, `security`: as for `pipeline.transport.Publisher`
    - `streams`: how many topics share the send queue
    - `awaits_subscriber`: `wait_ready` waits for a subscriber

    Made and used by one thread. Raises `ConfigError` if the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        payload: Payload = Settings.payload,
        quality: int = Settings.quality,
        security: Security | None = None,
        with_results: bool = True,
        streams: int = 2,
        awaits_subscriber: bool = False,
    ) -> None:
        self._with_results = with_results
        self._awaits_subscriber = awaits_subscriber
        self._source: Source[Any] | None = None
        self._publisher = Publisher(
            address, payload=payload, quality=quality, streams=streams, security=security
        )
        if is_available():  # else they stay until a subscriber wants images from shared memory
            remove_leftovers()
        logger.info("publishing at zmq+%s", self._publisher.endpoint)

    def wait_ready(self) -> None:
        """Wait for a subscriber if that was asked for; a signal interrupts it."""
        while self._awaits_subscriber and not self._publisher.has_subscribers():
            threading.Event().wait(POLL_S)

    def start(self, source: Source[Any]) -> None:
        self._source = source

    def write(self, result: Result) -> None:
        camera = result.header.camera
        clock = self._clock(camera)
        if result.frame is not None:
            self._publisher.send_frame(result.frame, clock)
        if self._with_results:
            self._publisher.send_result(result, clock)

    def _clock(self, camera: str) -> ClockOffset:
        """The clock that stamped the frames."""
        if self._source is None:
            return SAME_CLOCK
        return self._source.clock_of(camera) or UNKNOWN_CLOCK

    def counts(self) -> Mapping[str, Any]:
        sent = self._publisher.counts
        return {"sent": {topic: dict(count) for topic, count in sent.items()}}

    def close(self) -> None:
        """Close once the last messages have been sent, or after `FLUSH_S`."""
        self._publisher.close(flush_s=FLUSH_S)


def _make(settings: Settings) -> Publishing:
    if settings.publish is None:
        raise ConfigError("--publish ADDRESS is missing; it says where the frames are sent")
    _check_address(settings.publish, [*settings.subscribe, str(settings.source)])
    with_results = settings.detector != NO_MODEL
    return Publishing(
        settings.publish,
        payload=settings.payload,
        quality=settings.quality,
        security=publisher_security(settings),
        with_results=with_results,
        streams=(2 if with_results else 1) * max(1, len(settings.subscribe)),
        awaits_subscriber=settings.await_subscriber,
    )


KIND = OutputKind("publish", Publishing, _make)


def publisher_security(settings: Settings) -> Security:
    """The keys for `--publish`, and those of all peers.

    Raises `ConfigError` if one of their files cannot be used.
    """
    keys = load_key_pair(Path(os.path.expanduser(settings.key))) if settings.key else None
    rights = load_peers(settings.peer)
    return Security(keys, tuple(rights), settings.insecure, rights)


def _check_address(publish: str, sources: Iterable[str]) -> None:
    """Raise `ConfigError` if the address names a camera, or is a source of the frames."""
    address = parse_address(publish)
    if address.camera is not None:
        raise ConfigError(
            f"--publish {publish}: names a camera, and a camera's name comes with its frames; "
            f"leave it out (vision camera and run take --camera NAME)"
        )
    for source in sources:
        if is_address(source) and parse_address(source).endpoint == address.endpoint:
            raise ConfigError(f"--publish {publish}: is where the frames come from; choose another")
