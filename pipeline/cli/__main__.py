"""Entry point of the `vision` command and of `python -m pipeline.cli`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any, NoReturn

STREAMS = 3
EXIT_FAULT, EXIT_STOPPED = 1, 130  # as in `pipeline.cli.console`


def main() -> NoReturn:
    """Prepare the process so that users see no traceback, and run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while importing
    _open_closed_streams()
    sys.unraisablehook = _log_unraisable
    try:
        from pipeline.cli.main import main as run  # slow to import

        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
    except KeyboardInterrupt:  # during the exit, after all cleaning up
        os._exit(EXIT_STOPPED)
    except (ImportError, MemoryError, OSError) as error:  # not even enough to report one
        os.write(2, f"vision: error: cannot be loaded: {type(error).__name__}: {error}\n".encode())
        os._exit(EXIT_FAULT)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise a socket could get the descriptor of standard output. The null device is read-only, so
    that writing results to a closed standard output is an error.
    """
    while (file := os.open(os.devnull, os.O_RDONLY)) < STREAMS:  # the lowest free descriptor
        pass
    os.close(file)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - stays open


def _log_unraisable(caught: Any) -> None:
    """Log exceptions of destructors, which a signal may cause, under `--debug` only."""
    error = (caught.exc_type, caught.exc_value, caught.exc_traceback)
    logging.getLogger("pipeline.cli").debug("ignored in %r", caught.object, exc_info=error)


if __name__ == "__main__":
    main()
