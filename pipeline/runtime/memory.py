"""Returns memory that is no longer used to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim() -> None:
    """Return the free memory of all heaps to the system, if the C library can (glibc).

    glibc keeps what a thread has freed in that thread's heap, also after the thread has ended.
    Takes about a millisecond; not for each frame.
    """
    _malloc_trim()(0)


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    try:
        trim_heaps: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return lambda kept_bytes: None
    return trim_heaps
