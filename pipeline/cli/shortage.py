"""Names the file descriptors, memory or threads that this process lacks, and what to do."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

from pipeline.errors import RunError, StageError, VisionError, one_line

STREAMS = 3
DESCRIPTORS = 32
"""Open files that a run with one camera and one publisher needs, at least."""
ADDRESS_SPACE = 900 * 10**6
ADDRESS_SPACE_OF_MODELS = 1500 * 10**6
"""Bytes of address space that a command needs at least, and one that runs models on two cores.

With less, the libraries do not load, or end the process without a message.
"""

_FILES = (errno.EMFILE, errno.ENFILE)
# What libraries say; ld.so reports the number of the error only.
_FILES_TEXTS = ("Too many open files", "shared object file: Error 24")
_THREAD_TEXT = "can't start new thread"
_MEMORY_TEXTS = (
    *("Cannot allocate memory", "cannot allocate memory", "failed to map segment"),
    *("bad_alloc", "Insufficient memory", "Failed to allocate memory", "Unable to allocate"),
)


def check_limits(*, models: bool = False) -> None:
    """Check the limits of this process before libraries are loaded. Raises `RunError`."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS + _inherited()
    if files != resource.RLIM_INFINITY and files < needed:
        raise RunError(_too_few_files(needed))
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = ADDRESS_SPACE_OF_MODELS if models else ADDRESS_SPACE
    if space != resource.RLIM_INFINITY and space < needed:
        raise RunError(
            f"memory: the address space is limited to {space / 1e6:.0f} MB, but at least "
            f"{needed / 1e6:.0f} MB are needed; raise the limit with 'ulimit -v unlimited'"
        )


def shortage(error: BaseException) -> str | None:
    """What the process lacks and what to do; None if the error has another cause.

    An error of this package that names its subject is left as it is.
    """
    if isinstance(error, VisionError) and not isinstance(error, StageError):
        return _too_little_memory(str(error)) if _has(str(error), _MEMORY_TEXTS) else None
    for cause in _causes(error):
        text = str(cause)
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _FILES or _has(text, _FILES_TEXTS):
            return _too_few_files()
        if isinstance(cause, RuntimeError) and _THREAD_TEXT in text:
            return _too_few_threads()
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or _has(text, _MEMORY_TEXTS):
            return _too_little_memory(text)
    return None


def _inherited() -> int:
    """Open files besides the standard streams; 0 if they cannot be listed."""
    try:
        return max(len(os.listdir("/proc/self/fd")) - STREAMS - 1, 0)
    except OSError:
        return 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it comes from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)


def _too_few_files(needed: int = DESCRIPTORS) -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too few file descriptors: the limit is {limit}, but {needed} are needed, and more "
        f"for several cameras or peers; raise the limit with 'ulimit -n 1024'"
    )


def _too_few_threads() -> str:
    return (
        f"no further thread can be started: their number or memory is limited{_space()}; raise "
        f"the limit with 'ulimit -u' or 'ulimit -v', or lower --threads"
    )


def _too_little_memory(text: str) -> str:
    detail = one_line(text)
    said = f" ({detail})" if 0 < len(detail) < 200 else ""
    return (
        f"too little memory{said}{_space()}; end other programs, raise the limit with 'ulimit -v', "
        f"or lower --threads"
    )


def _space() -> str:
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space == resource.RLIM_INFINITY:
        return ""
    return f", and the address space of this process is limited to {space / 1e6:.0f} MB"
