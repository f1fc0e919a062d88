"""Numeric functions that Numba compiles, and whose machine code is kept on disk.

Numba is imported with the first call of a kernel, so that a command without kernels does not load
it. A kernel without machine code on disk is compiled in a child process, see `process`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.inference.kernels import process
from pipeline.inference.kernels.process import DONE, NO_ROOM, compile_in_child

logger = logging.getLogger(__name__)

_lock = threading.RLock()  # Numba compiles one function at a time
_kernels: list[Kernel] = []


class Kernel:
    """A function that is compiled on its first call, and runs without the interpreter lock.

    `uses`: other modules with functions that this one calls. Numba looks for changes in the
    function's own file only, so their contents become part of the name that it is kept under.
    """

    keeps_code = True
    """Whether the machine code of all kernels is kept on disk; False once that has failed."""

    def __init__(self, function: Callable[..., Any], uses: Sequence[ModuleType]) -> None:
        functools.update_wrapper(self, function)
        for module in uses:
            function.__qualname__ += f"_{_checksum(module):08x}"
        self.py_func = function
        self._compiled: Callable[..., Any] | None = None
        _kernels.append(self)

    def __call__(self, *args: Any) -> Any:
        return self._call_first(args) if self._compiled is None else self._compiled(*args)

    @functools.cached_property
    def _dispatcher(self) -> Any:
        """Numba's function, which compiles for the types of its arguments or loads the result."""
        dispatcher = _numba().njit(nogil=True, error_model="numpy")(self.py_func)
        if Kernel.keeps_code:
            # RuntimeError is Numba's answer if no folder can be written to.
            with contextlib.suppress(RuntimeError):
                _keep_code_of(dispatcher)
        return dispatcher

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes this object for where another kernel calls it."""
        return self._dispatcher._numba_type_

    @property
    def folder(self) -> Path | None:
        """Where the machine code is kept, None if no folder can be written to."""
        path = self._dispatcher.stats.cache_path
        return None if path is None else Path(path)

    @property
    def is_compiled(self) -> bool:
        """Whether an earlier run of this Python and these files has left machine code."""
        return not _is_disabled() and self.folder is not None and self._dispatcher._cache.holds()

    def _call_first(self, args: tuple[Any, ...]) -> Any:
        """Load the machine code, after it was compiled if need be, and call it."""
        with _lock:
            if self._compiled is not None:
                return self._compiled(*args)
            if _is_disabled():
                self._compiled = self.py_func
                return self.py_func(*args)
            if not process.is_child and not self._is_kept_for(args):
                logger.info("compiling %s, once per machine (up to 10 s)", self.py_func.__name__)
                self._compile(args)
            result = self._dispatcher(*args)
            self._compiled = self._dispatcher
            process.drop_compiler_pages()
            return result

    def _is_kept_for(self, args: tuple[Any, ...]) -> bool:
        if self.folder is None:
            return False
        dispatcher = self._dispatcher
        kept: bool = dispatcher._cache.holds(_signature(args), dispatcher.targetctx)
        return kept

    def _compile(self, args: tuple[Any, ...]) -> None:
        """Have a child process compile for these arguments, if one can be started."""
        if self.folder is not None:
            outcome = compile_in_child(self, args)
            if outcome != NO_ROOM:  # done, or this process compiles and keeps the machine code
                return
        _warn_of_no_room(self.folder)
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="vision-") as folder:
            if compile_in_child(self, args, folder) == DONE:
                self._dispatcher = _loaded_from(folder, self.py_func, args)
                return
        Kernel.keeps_code = False  # this process compiles
        for one in _kernels:
            one.__dict__.pop("_dispatcher", None)


def kernel(function: Any = None, *, uses: Sequence[ModuleType] = ()) -> Any:
    """Make a function a `Kernel`."""
    return functools.partial(kernel, uses=uses) if function is None else Kernel(function, uses)


@functools.cache
def _numba() -> Any:
    numba = importlib.import_module("numba")
    process.drop_compiler_pages()
    return numba


@functools.cache
def _is_disabled() -> bool:
    """Whether the user wants plain Python, which debuggers can follow."""
    is_disabled = bool(_numba().config.DISABLE_JIT)
    if is_disabled:
        logger.warning("NUMBA_DISABLE_JIT is set: kernels run as plain Python, which is very slow")
    return is_disabled


def _keep_code_of(dispatcher: Any) -> None:
    """Do what `cache=True` does, with a cache that loads faster."""
    module = importlib.import_module("pipeline.inference.kernels.cache")
    dispatcher._cache = module.LoadingCache(dispatcher.py_func)


def _signature(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_numba().typeof(arg) for arg in args)


def _loaded_from(folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A function whose machine code lies in `folder`, which may be removed afterwards."""
    numba = _numba()
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, folder
    try:
        dispatcher = _numba().njit(nogil=True, error_model="numpy")(function)
        _keep_code_of(dispatcher)
        dispatcher.compile(_signature(args))
    finally:
        numba.config.CACHE_DIR = before
    return dispatcher


@functools.cache
def _warn_of_no_room(folder: Path | None) -> None:
    why = "no folder can be written to" if folder is None else f"{folder} cannot be written to"
    logger.warning(
        "%s, so kernels are compiled at every start; set NUMBA_CACHE_DIR to another folder", why
    )


def _checksum(module: ModuleType) -> int:
    try:
        return zlib.crc32(Path(str(module.__file__)).read_bytes())
    except OSError:  # installed without its sources
        return 0
