"""Compiles numeric functions with Numba, and keeps the machine code on disk."""

from __future__ import annotations

import functools
import logging
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numba

logger = logging.getLogger(__name__)


@functools.cache
def _warn_of_no_cache(reason: str) -> None:
    logger.warning("no folder to keep compiled kernels in (%s); every start compiles", reason)


def kernel(function: Any = None, *, uses: Sequence[ModuleType] = ()) -> Any:
    """Compile on first use, keep the machine code on disk, run without the interpreter lock.

    `uses`: other modules with functions that this one calls. Numba looks for changes in the
    function's own file only, so their contents become part of the name that it is kept under.
    """
    if function is None:
        return functools.partial(kernel, uses=uses)
    for module in uses:
        function.__qualname__ += f"_{_checksum(module):08x}"
    compiled: Callable[..., Any] = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # Numba's answer if no folder can be written to
        _warn_of_no_cache("set NUMBA_CACHE_DIR to one")
        return compiled()(function)


def is_compiled(dispatcher: Any) -> bool:
    """Whether an earlier run of this Python and these files has left a kernel's machine code."""
    folder = dispatcher.stats.cache_path
    if folder is None:
        return False
    function = dispatcher.py_func
    source = Path(function.__code__.co_filename)
    name = f"{source.stem}.{function.__qualname__}-*.py{sys.version_info[0]}{sys.version_info[1]}*"
    newest = source.stat().st_mtime
    return any(index.stat().st_mtime >= newest for index in Path(folder).glob(f"{name}.nbi"))


def _checksum(module: ModuleType) -> int:
    try:
        return zlib.crc32(Path(str(module.__file__)).read_bytes())
    except OSError:  # installed without its sources
        return 0
