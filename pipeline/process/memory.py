"""Measures the memory of this process, and returns what is no longer used to the system."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

_STATM = "/proc/self/statm"  # of Linux: in pages; size, resident, shared, ...


def trim() -> None:
    """Return the free memory of all heaps to the system, if the C library can (glibc).

    glibc keeps what a thread has freed in that thread's heap, also after the thread has ended.
    Takes about a millisecond; not for each frame.
    """
    _malloc_trim()(0)


def private_bytes() -> int:
    """The memory that only this process uses, without files and shared memory; 0 if unknown."""
    try:
        with open(_STATM, "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    try:
        trim_heaps: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return lambda kept_bytes: None
    return trim_heaps
