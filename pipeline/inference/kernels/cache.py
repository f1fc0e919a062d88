"""Loads machine code from disk without the part of Numba that compiles.

Numba prepares its compiler before it looks for machine code on disk: 200 modules, 25 MB and 0.4 s.
Code that is complete needs only Numba's run time, which counts the references to arrays.
"""

from __future__ import annotations

import logging
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

NEWEST_TESTED = (0, 68)
"""Newer versions of Numba load in their own way until this one has been tested with them."""

logger = logging.getLogger(__name__)


class LoadingCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, which prepares the compiler only to compile."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, None if it is not on disk."""
        if _version() > NEWEST_TESTED:
            return super().load_overload(sig, target_context)
        rtsys.initialize(target_context)
        try:
            return self._load_overload(sig, target_context)
        except Exception as error:  # whatever damaged bytes are taken for
            logger.warning("%s: damaged, compiled again: %s", self.cache_path, error)
            self.flush()
            return None

    def holds(self, sig: Any = None, target_context: Any = None) -> bool:
        """Whether code for a signature, or any code, is on disk and not older than its source.

        A damaged file is replaced and holds none. With a version of Numba that is not tested, Numba
        itself looks, and compiles in this process if there is none.
        """
        if _version() > NEWEST_TESTED:
            return True
        try:
            kept = self._cache_file._load_index()
        except Exception as error:  # whatever damaged bytes are taken for
            logger.warning("%s: damaged, compiled again: %s", self.cache_path, error)
            self.flush()
            return False
        return bool(kept) if sig is None else self._index_key(sig, target_context.codegen()) in kept


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in numba.__version__.split(".")[:2])
