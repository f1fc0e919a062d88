"""Says which of the options that were given do nothing with the others as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from pipeline.config import Settings

_PUBLISHED = ("payload", "quality", "await_subscriber")
_CAPTURED = ("width", "height", "fps", "fourcc", "read_timeout", "reconnect", "isolate")
_RECEIVED = ("max_frame_mb", "server")
_BETWEEN = ("key", "peer", "insecure")

logger = logging.getLogger(__name__)


def warn_of_idle(settings: Settings, given: Mapping[str, object]) -> None:
    """Warn of each idle option among those `given` on the command line, by name, None for not.

    What a `--config` file says is meant for several commands and passed over.
    """
    names = {name for name, value in given.items() if value is not None}
    for reason, idle in _idle(settings):
        found = ", ".join(f"--{name.replace('_', '-')}" for name in idle if name in names)
        if found:
            logger.warning("%s: without effect here, %s", found, reason)


def _idle(settings: Settings) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Options that are idle, and why."""
    source = str(settings.source or "").lower()
    is_received = bool(settings.subscribe) or source.startswith("zmq+")
    if not settings.publish:
        yield "as nothing is published (--publish ADDRESS)", _PUBLISHED
    if is_received:
        yield "as the frames come from another process", _CAPTURED
    else:
        yield "as nothing comes from another process", _RECEIVED
    if not (is_received or settings.publish):
        yield "as nothing goes to or comes from another process", _BETWEEN
