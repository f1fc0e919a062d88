"""Parameters of the nodes: declared in one table each, with ranges, checked before they apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.node import Node

from pipeline.errors import ConfigError, VisionError

Value = Any
"""bool, int, float, str, or a list of str: what the default is."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, default and meaning, and what values it may have.

    `low` and `high` are the ends of a number's range, `choices` all values of a text. One that is
    not `changeable` is set when the node starts and read-only from then on.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The same as ROS tools show it."""
        described = ParameterDescriptor(
            name=self.name,
            description=self.description,
            read_only=not self.changeable,
            additional_constraints=f"one of {', '.join(self.choices)}" if self.choices else "",
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                described.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
            else:
                described.integer_range = [
                    IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
                ]
        return described

    def check(self, value: Value) -> None:
        """Raise `ConfigError` where `value` is not allowed; its type has been looked at."""
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{self.name} must be one of {', '.join(self.choices)}, but got '{value}'"
            )
        if self.low is None or self.high is None:
            return
        if not self.low <= value <= self.high or not math.isfinite(value):
            raise ConfigError(
                f"{self.name} must lie between {self.low:g} and {self.high:g}, but got {value}"
            )


class Parameters:
    """The declared parameters of a node, by name.

    `on_change` is called with the changed values before they are accepted, on the executor's
    thread; a `VisionError` that it raises refuses them with its message. Whoever reads a value from
    any thread sees the newest.

    Raises `ConfigError` where the user has given a value that is not allowed.
    """

    def __init__(self, node: Node, table: Sequence[Parameter]) -> None:
        self._table: Mapping[str, Parameter] = {entry.name: entry for entry in table}
        self._values: dict[str, Value] = {}
        self.on_change: Callable[[Mapping[str, Value]], None] | None = None
        # First, so that what the user gives at the start is checked in the same way.
        node.add_on_set_parameters_callback(self._set)
        for entry in table:
            _declare(node, entry)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def _set(self, parameters: Sequence[Any]) -> SetParametersResult:
        changed = {p.name: p.value for p in parameters if p.name in self._table}
        try:
            for name, value in changed.items():
                self._table[name].check(value)
            if self.on_change is not None and changed:
                self.on_change(changed)
        except VisionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values.update(changed)
        return SetParametersResult(successful=True)


def _declare(node: Node, entry: Parameter) -> None:
    try:
        node.declare_parameter(entry.name, entry.default, entry.descriptor())
    except InvalidParameterTypeException as error:
        reason = _one_line(error).removesuffix(f": {entry.name}")
        expected = _EXPECTED[type(entry.default)]
        raise ConfigError(f"parameter {entry.name} must be {expected}: {reason}") from error
    except ParameterException as error:
        reason = _one_line(error).removesuffix(f": {entry.name}")
        raise ConfigError(f"parameter {entry.name}: {reason}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point, such as 1.0",
    str: "a text, in its own quotes where YAML takes it for something else",
    list: "a list of texts, such as [front, rear]",
}


AUTOSTART = Parameter(
    "autostart", True, "configure and activate as soon as the node runs; false waits to be told"
)

NO_CLASSIFIER = "none"

THREADS = Parameter(
    "threads", 0, "cores that inference may use together; 0 for all that the process has", 0, 1024
)

MAX_RATE = Parameter(
    "max_rate",
    0.0,
    "images a second of each camera that are looked at, at most; 0 for all",
    0.0,
    1000.0,
    changeable=True,
)

DETECTION = (
    Parameter(
        "detector",
        "yolov4-tiny-int8",
        "detection model: a name (vision models list) or the path of an ONNX file",
    ),
    Parameter(
        "score_threshold",
        0.25,
        "objects below this score are left out; counts from the next frame on",
        0.0,
        1.0,
        changeable=True,
    ),
    Parameter(
        "nms_threshold",
        0.45,
        "boxes of one class that overlap more than this are one object",
        0.0,
        1.0,
        changeable=True,
    ),
    Parameter(
        "nms_kind",
        "iou",
        "how overlapping boxes are told apart; darknet for the suppression of Darknet itself",
        choices=("iou", "darknet"),
    ),
    Parameter("max_detections", 300, "objects in one frame at most, the best ones", 1, 10000),
    THREADS,
    MAX_RATE,
)

CLASSIFICATION = (
    Parameter(
        "classifier",
        "mobilenetv2-int8",
        "classification model: a name or the path of an ONNX file; none for no finer names",
    ),
    Parameter("top", 5, "finer names that an object gets", 1, 1000),
)

SUBSCRIPTION = (
    Parameter(
        "image_transport",
        "raw",
        "raw subscribes to the images themselves, compressed to their JPEG under /compressed",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "auto",
        "of the image subscription; auto takes the publisher's, so that both kinds are heard",
        choices=("auto", "reliable", "best_effort"),
    ),
    Parameter(
        "image_timeout",
        5.0,
        "seconds without images after which a warning says why there may be none",
        0.5,
        3600.0,
        changeable=True,
    ),
)

DIAGNOSTICS = (
    Parameter(
        "diagnostics.stale_after",
        2.0,
        "seconds without images after which diagnostics say WARN",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.stopped_after",
        10.0,
        "seconds without images after which diagnostics say ERROR",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_age",
        0.5,
        "seconds from capture to publication (p95) beyond which diagnostics say WARN",
        0.001,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_rate",
        0.0,
        "messages a second that must go out, or diagnostics say WARN; 0 for no such limit",
        0.0,
        1000.0,
        changeable=True,
    ),
)
