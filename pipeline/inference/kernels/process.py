"""Compiles kernels in a child process that ends, so that its memory is free again.

Compiling takes 100 MB more than loading the result. The parent sends the name of a kernel and the
arguments of its first call; the child makes this call, and Numba writes the machine code to disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.process.children import python_command

logger = logging.getLogger(__name__)

DONE, FAILED, NO_ROOM = 0, 1, 3
"""What became of the child; `NO_ROOM`: the machine code cannot be written."""
LIMIT_S = 120.0
"""A child that takes longer is killed, and its parent compiles itself."""

is_child = False
"""Whether this process is such a child, which compiles itself."""

_START = f"import sys; from {__name__} import main; main(sys.stdin.buffer.read())"
_DONTNEED = 4  # MADV_DONTNEED of Linux


def compile_in_child(kernel: Any, args: Sequence[Any], folder: str | None = None) -> int:
    """Compile `kernel` for `args` in a child process: `DONE`, `NO_ROOM` or the code of a failure.

    The machine code is kept in `folder`, or where Numba keeps it.
    """
    job = pickle.dumps((kernel.py_func.__module__, kernel.py_func.__name__, args))
    environment = dict(os.environ) if folder is None else {**os.environ, "NUMBA_CACHE_DIR": folder}
    is_debugged = logger.isEnabledFor(logging.DEBUG)
    try:
        done = subprocess.run(
            python_command(_START),
            input=job,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=None if is_debugged else subprocess.DEVNULL,
            timeout=LIMIT_S,
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.debug("no process to compile in: %s", error)
        return FAILED
    return done.returncode


def main(job: bytes) -> None:
    """Make the call that `compile_in_child` describes."""
    global is_child  # noqa: PLW0603 - set once, before kernels are imported
    is_child = True
    module, name, args = pickle.loads(job)  # noqa: S301 - comes from the parent
    function = getattr(importlib.import_module(module), name)
    try:
        function(*args)
    except OSError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(NO_ROOM)


def drop_compiler_pages() -> None:
    """Unmap the pages of LLVM's code, which loading has touched and running does not use.

    They are read from the page cache again if needed. Does nothing but on Linux.
    """
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            place, rights, *_ = line.split()
            if rights.startswith("r-x") and "libllvmlite" in line:
                first, end = (int(address, 16) for address in place.split("-"))
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _DONTNEED)
