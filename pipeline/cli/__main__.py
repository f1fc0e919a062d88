"""`python -m pipeline.cli` is the `vision` command; so is what the installation calls `vision`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any, NoReturn

STREAMS = 3


def main() -> NoReturn:
    """Make the process fit for users, who never see a traceback, and run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of a half loaded package
    _open_what_is_closed()
    sys.unraisablehook = _note
    from pipeline.cli.console import EXIT_STOPPED
    from pipeline.cli.main import main as run  # which takes its time

    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
    except KeyboardInterrupt:  # in the last moments, when nothing is left to be broken off
        os._exit(EXIT_STOPPED)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Let no socket get the number of a closed standard stream, for others to write to.

    They cannot be written: whoever sends results there is told so.
    """
    while (file := os.open(os.devnull, os.O_RDONLY)) < STREAMS:  # the lowest number that is free
        pass
    os.close(file)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good


def _note(what: Any) -> None:
    """Keep to `--debug` what objects raise that a signal has left half made."""
    error = (what.exc_type, what.exc_value, what.exc_traceback)
    logging.getLogger("pipeline.cli").debug("ignored in %r", what.object, exc_info=error)


if __name__ == "__main__":
    main()
