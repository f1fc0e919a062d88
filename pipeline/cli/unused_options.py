"""Warns of command line options that have no effect in combination with the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from pipeline.settings import SETTINGS, Settings

_SENT = ("payload", "quality", "await_subscriber")
_RECEIVED = ("max_frame_mb", "server")
_CONNECTED = ("key", "peer", "insecure")

logger = logging.getLogger(__name__)


def warn_of_unused_options(settings: Settings, origins: Mapping[str, str]) -> None:
    """Warn of each option without effect.

    Only of the command line: files and the environment are meant for several commands.
    """
    for reason, names in _unused(settings):
        given = [name for name in names if origins.get(name, "").startswith("option")]
        if given:
            options = ", ".join(SETTINGS[name].option for name in given)
            logger.warning("%s: without effect here, %s", options, reason)


def _unused(settings: Settings) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Settings without effect, and why."""
    source = str(settings.source or "").lower()
    is_received = bool(settings.subscribe) or source.startswith("zmq+")
    if not settings.publish:
        yield "as nothing is published (--publish ADDRESS)", _SENT
    if not is_received:
        yield "as nothing comes from another process", _RECEIVED
    if not (is_received or settings.publish):
        yield "as there is no connection to another process", _CONNECTED
