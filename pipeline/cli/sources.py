"""Opens the sources and subscriptions that settings name."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import fields
from typing import Any

from pipeline.outputs import turned_on
from pipeline.publishing import publisher_security
from pipeline.settings import SETTINGS, Settings
from pipeline.source import Source, SourceOptions
from pipeline.sources import open_source, open_with_retries
from pipeline.transport import (
    FrameSubscription,
    Limits,
    ResultSubscription,
    Security,
    check_subscription,
    is_address,
    load_peers,
    subscribe_frames,
)
from pipeline.types import Frame

logger = logging.getLogger(__name__)


def open_from_settings(settings: Settings, *, real_time: bool = False) -> Source[Frame]:
    """Open the source; `retry` repeats failed attempts until one succeeds."""
    if not settings.retry:
        return _open_once(settings, real_time)
    never = threading.Event()  # only a signal ends the attempts
    return open_with_retries(lambda: _open_once(settings, real_time), never, logger.info)


def source_options(settings: Settings) -> dict[str, Any]:
    """The keywords of `open_source`: settings of the same name, and what is made from others."""
    names = {field.name: field.name.removesuffix("_s") for field in fields(SourceOptions)}
    same = {name: getattr(settings, of) for name, of in names.items() if of in SETTINGS}
    return {
        **same,
        "in_turn": True,
        "limits": limits_of(settings),
        "security": subscriber_security(settings),
    }


def open_frames(settings: Settings) -> FrameSubscription:
    """Subscribe to frames; their publishers may start later."""
    return subscribe_frames(
        settings.subscribe,
        group=settings.group,
        limits=limits_of(settings),
        security=subscriber_security(settings),
    )


def check_addresses(settings: Settings) -> None:
    """Check the subscribed addresses and their keys. Raises `ConfigError`."""
    addresses = settings.subscribe or [str(settings.source)]
    if settings.subscribe or is_address(addresses[0]):
        security = subscriber_security(settings)
        check_subscription(addresses, group=settings.group, security=security)


def open_results(settings: Settings) -> ResultSubscription:
    """Subscribe to results, and to their images if an output needs them."""
    wants = {kind.output.wants_images for kind in turned_on(settings)}
    addresses, security = settings.subscribe, subscriber_security(settings)
    check_subscription(addresses, security=security)
    ordered = bool(settings.every_frame) or len(addresses) > 1
    return ResultSubscription(
        addresses,
        images=True in wants,  # otherwise they are not sent
        ordered=ordered,
        in_turn=not ordered,
        frames_alone=wants == {True},
        streams=len(addresses),
        limits=limits_of(settings),
        security=security,
    )


def limits_of(settings: Settings) -> Limits:
    """Limits for messages from other processes."""
    return Limits(settings.max_frame_mb, settings.max_cameras)


def subscriber_security(settings: Settings) -> Security:
    """The keys for `--subscribe`: that of `--server` if given, else those of all peers."""
    security = publisher_security(settings)
    if not settings.server:
        return security
    (server,) = load_peers([settings.server])
    rights = load_peers([*settings.peer, settings.server])
    return Security(security.keys, (server,), settings.insecure, rights)


def _open_once(settings: Settings, real_time: bool) -> Source[Frame]:
    """Open the source on a thread, so that a driver that hangs does not block signals."""
    future: Future[Source[Frame]] = Future()
    options = source_options(settings) | {"real_time": real_time}

    def attempt() -> None:
        try:
            source = open_source(str(settings.source), **options)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(source)

    threading.Thread(target=attempt, name="open", daemon=True).start()
    return future.result()
