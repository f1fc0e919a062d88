"""Closes what was dropped without `close`, with a `ResourceWarning` as for Python's own files."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable


def close_when_dropped(
    owner: object, subject: str, close: Callable[[], None]
) -> weakref.finalize[..., object]:
    """Call `close` once `owner` is no longer referred to, or at the end of the program.

    `close` must not refer to `owner`. Call `detach` of what is returned when `owner` is closed in
    the usual way; `subject` names it in the warning.
    """
    return weakref.finalize(owner, _close, subject, close)


def _close(subject: str, close: Callable[[], None]) -> None:
    warnings.warn(f"unclosed {subject}; use it in a with statement", ResourceWarning, stacklevel=2)
    if not threading.main_thread().is_alive():  # at the end of the program
        close()
        return
    # The garbage collector runs in any thread, also in one that holds a lock that `close` needs.
    threading.Thread(target=close, name="closing", daemon=True).start()
