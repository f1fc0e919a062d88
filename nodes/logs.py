"""What the engine logs, in the node's own log: one place to look, one level to set."""

from __future__ import annotations

import logging
from typing import Any


class RosHandler(logging.Handler):
    """Passes the engine's lines on to a node's logger, at the same severity."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(self.format(record).split())
        # One call each: rclpy refuses two severities from the same place.
        if record.levelno >= logging.ERROR:
            self._logger.error(line)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(line)
        elif record.levelno >= logging.INFO:
            self._logger.info(line)
        else:
            self._logger.debug(line)


def pass_on_logs(logger: Any) -> None:
    """Send what the engine logs from now on to `logger`, a node's."""
    engine = logging.getLogger("pipeline")
    engine.handlers = [RosHandler(logger)]
    engine.propagate = False
    engine.setLevel(logging.DEBUG if logger.is_enabled_for(10) else logging.INFO)
