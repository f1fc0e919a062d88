"""Opens sources: the table of all kinds of sources, and `open_source`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Concatenate, ParamSpec, TypeVar

from pipeline.capture import camera as cameras
from pipeline.capture import files, scene, stream
from pipeline.capture.files import Paced
from pipeline.capture.live import Backoff
from pipeline.errors import SourceError
from pipeline.source import Source, SourceKind, SourceOptions, check_camera_name
from pipeline.text.display import shown_source
from pipeline.transport.zmq import frames as subscriptions
from pipeline.types import Frame, described

log = logging.getLogger(__name__)

Opened = TypeVar("Opened")
P = ParamSpec("P")
SourceName = str | int | os.PathLike[str]
_OpenWithOptions = Callable[[SourceName, SourceOptions], Source[Frame]]

KINDS: tuple[SourceKind, ...] = (
    cameras.KIND,
    stream.KIND,
    scene.KIND,
    subscriptions.KIND,
    files.KIND,
)
"""Every kind of source; the first that accepts a text opens it."""

FORMS = ", ".join(kind.forms for kind in KINDS)

_NEVER_REPORTED = ("camera", "open_timeout_s", "real_time", "in_turn", "limits", "security")


def _with_keywords(
    make: Callable[P, SourceOptions],
) -> Callable[[_OpenWithOptions], Callable[Concatenate[SourceName, P], Source[Frame]]]:
    """Let a function of a text and options be called with the fields of the options as keywords."""

    def decorate(
        opens: _OpenWithOptions,
    ) -> Callable[Concatenate[SourceName, P], Source[Frame]]:
        @wraps(opens)
        def call(text: SourceName, /, *args: P.args, **keywords: P.kwargs) -> Source[Frame]:
            return opens(text, make(*args, **keywords))

        text, _ = signature(opens).parameters.values()
        call.__signature__ = signature(make).replace(  # type: ignore[attr-defined]
            parameters=[text, *signature(make).parameters.values()],
            return_annotation=signature(opens).return_annotation,
        )
        return call

    return decorate


@_with_keywords(SourceOptions)
def open_source(text: SourceName, /, options: SourceOptions) -> Source[Frame]:
    """Open what `text` names: a camera, a file, images, a stream, the scene, or a subscription.

    The keywords are the fields of `SourceOptions`, which explains them. Those without an effect on
    the source are logged. Raises `SourceError` if the source cannot be opened and `ConfigError` if
    an option makes no sense.
    """
    if not isinstance(text, (str, int, os.PathLike)) or isinstance(text, bool):
        raise SourceError(
            f"source: expected a camera number, a path or an address, but got {described(text)}"
        )
    text = str(text)
    if options.camera is not None:
        check_camera_name(options.camera)
    kind = kind_of(text)
    unused = _unused(kind, options)
    if unused:
        log.warning(
            "%s: without effect on %s: %s", shown_source(text), kind.name, ", ".join(unused)
        )
    source = kind.open(text, options)
    return Paced(source) if options.real_time and not source.live else source


def kind_of(text: str) -> SourceKind:
    """The kind of source that `text` names.

    Raises `SourceError` if it names none.
    """
    for kind in KINDS:
        if kind.accepts(text):
            return kind
    shown = shown_source(text)
    scheme, separator, _ = shown.partition("://")
    if separator:
        why = f"unknown kind '{scheme}://'"
    else:
        why = files.why_missing(text) if shown == text else "no such file"
    raise SourceError(f"source '{shown}': {why}; expected {FORMS}")


def may_appear(text: str) -> bool:
    """Whether `text` names what may become available later: a camera, a stream, a publisher."""
    kind = next((kind for kind in KINDS if kind.accepts(text)), None)
    return kind is not None and "open_timeout_s" in kind.uses


def _unused(kind: SourceKind, options: SourceOptions) -> list[str]:
    """The options that were chosen and have no effect on a kind of source."""
    defaults = vars(SourceOptions())
    return [
        name
        for name, value in vars(options).items()
        if value != defaults[name] and name not in (*kind.uses, *_NEVER_REPORTED)
    ]


def open_with_retries(
    attempt: Callable[[], Opened], closing: threading.Event, say: Callable[[str], object]
) -> Opened:
    """Call `attempt` until it opens a source, waiting with back-off after each failure.

    `say` is called with each failure. Once `closing` is set, the next failure is raised as
    `SourceError`.
    """
    backoff = Backoff()
    attempts = 0
    while True:
        try:
            return attempt()
        except SourceError as error:
            if closing.is_set():
                raise
            wait_s = backoff.wait_s(attempts)
            say(f"{error}; trying again in {wait_s:.1f} s")
        attempts += 1
        closing.wait(wait_s)
