"""Declares the parameters of the nodes, from the settings and from a table of what only ROS has."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.node import Node

from pipeline.errors import ConfigError, VisionError, one_line
from pipeline.images import JPEG_QUALITY
from pipeline.settings import SETTINGS, Setting
from pipeline.sources import may_appear

Value = Any
"""bool, int, float, str or a list of str: the type of the default."""


_UNITS = ("PIXELS", "SECONDS")


@dataclass(frozen=True)
class Parameter:
    """The name, default, description and allowed values of one parameter.

    `low` and `high` are the ends of a number's range, `choices` all values of a text. `setting` is
    the setting of the same meaning, if there is one. A parameter that is not `changeable` is
    read-only after the node has started. `default_for` gives the default if it depends on the
    parameters before. A text that `takes_numbers` also accepts a whole number, as YAML reads `0`.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False
    setting: Setting | None = None
    default_for: Callable[[Mapping[str, Value]], Value] | None = None
    takes_numbers: bool = False

    @classmethod
    def of(cls, setting: Setting, unset: str = "", changeable: bool = False) -> Parameter:
        """The parameter of a setting; 0 or empty is an unset value, which `unset` describes."""
        about, limits, default = setting.about, setting.range, setting.default
        low = limits.ge if limits.gt is None else limits.gt
        description = about.help
        if about.metavar in _UNITS:
            description += f", in {about.metavar.lower()}"
        if default is None:
            low, default = 0, setting.base() if setting.base in (int, float) else ""
            unset = unset or about.unset or "the source's own"
            description += f"; {'empty' if default == '' else 0}: {unset}"
        return cls(
            about.ros, default, description, low, limits.le, setting.choices, changeable, setting
        )

    def descriptor(self) -> ParameterDescriptor:
        """The description that ROS tools show."""
        described = ParameterDescriptor(
            name=self.name,
            description=self.description,
            read_only=not self.changeable,
            additional_constraints=f"one of {', '.join(self.choices)}" if self.choices else "",
            dynamic_typing=self.takes_numbers,
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
        """Raise `ConfigError` if `value`, of the right type, is not allowed."""
        if self.takes_numbers and not isinstance(value, str):
            raise ConfigError(f"{self.name} must be a text or a whole number, but got {value!r}")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{self.name} must be one of {', '.join(self.choices)}, but got '{value}'"
            )
        has_range = self.low is not None and self.high is not None
        if has_range and not (self.low <= value <= self.high and math.isfinite(value)):
            raise ConfigError(
                f"{self.name} must lie between {self.low:g} and {self.high:g}, but got {value}"
            )
        if self.setting is not None and value != self.default:
            self.setting.check(value, self.name)


class Parameters:
    """The declared parameters of a node, by name.

    `on_change` is called with the changed values before they are accepted, on the executor's
    thread; a `VisionError` that it raises rejects them with its message. Reading a value from any
    thread returns the newest.

    Raises `ConfigError` if the user has given a value that is not allowed.
    """

    def __init__(self, node: Node, table: Sequence[Parameter]) -> None:
        self._table: Mapping[str, Parameter] = {entry.name: entry for entry in table}
        self._values: dict[str, Value] = {}
        self.on_change: Callable[[Mapping[str, Value]], None] | None = None
        # Before the declarations, so that it also checks the values given at the start.
        node.add_on_set_parameters_callback(self._set)
        for entry in table:
            default = entry.default_for(self._values) if entry.default_for else entry.default
            _declare(node, replace(entry, default=default))
        self._warn_of_unknown(node)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def as_dict(self) -> dict[str, Value]:
        """All values, by name."""
        return dict(self._values)

    def get(self, name: str, default: Value = None) -> Value:
        """The value of a parameter, or `default` if the node does not have it."""
        return self._values.get(name, default)

    def _set(self, parameters: Sequence[Any]) -> SetParametersResult:
        changed = {p.name: self._value_of(p) for p in parameters if p.name in self._table}
        try:
            for name, value in changed.items():
                self._table[name].check(value)
            if self.on_change is not None and changed:
                self.on_change(changed)
        except VisionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values.update(changed)
        return SetParametersResult(successful=True)

    def _value_of(self, parameter: Any) -> Value:
        is_number = type(parameter.value) is int and self._table[parameter.name].takes_numbers
        return str(parameter.value) if is_number else parameter.value

    def _warn_of_unknown(self, node: Node) -> None:
        """Warn of given parameters that no node has; rclpy ignores them silently."""
        given = vars(node).get("_parameter_overrides", {})  # there is no public way
        known = {*self._table, *ONLY_ROS, *(one.about.ros for one in SETTINGS.values())}
        for name in given:
            if name in known or node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            near = difflib.get_close_matches(name, self._table, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            node.get_logger().warning(f"parameter {name} is not known and has no effect{hint}")


def _declare(node: Node, entry: Parameter) -> None:
    try:
        node.declare_parameter(entry.name, entry.default, entry.descriptor())
    except InvalidParameterTypeException as error:
        reason = one_line(error).removesuffix(f": {entry.name}")
        expected = _EXPECTED[type(entry.default)]
        raise ConfigError(f"parameter {entry.name} must be {expected}: {reason}") from error
    except ParameterException as error:
        reason = one_line(error).removesuffix(f": {entry.name}")
        raise ConfigError(f"parameter {entry.name}: {reason}") from error


_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point, such as 1.0",
    str: "a text, in quotes of its own if YAML reads it as another type",
    list: "a list of texts, such as [front, rear]",
}


_CHANGEABLE = ("score", "nms", "detector", "classifier")
_UNSET = {
    "source": "vision_node subscribes to image_raw",
    "camera": "the source's own; also the frame_id of the headers",
    "fps": "the source's own",
}


def parameters_of_settings(node: str) -> tuple[Parameter, ...]:
    """The parameters of a node that are settings of the pipeline, too."""
    made = (
        Parameter.of(setting, _UNSET.get(name, ""), name in _CHANGEABLE)
        for name, setting in SETTINGS.items()
        if setting.about.ros and node in setting.about.nodes
    )
    return tuple(_adapted(one) for one in made)


def _adapted(parameter: Parameter) -> Parameter:
    if parameter.name == "source":
        return replace(parameter, takes_numbers=True)
    return _retrying(parameter) if parameter.name == "retry" else parameter


def _retrying(retry: Parameter) -> Parameter:
    """A robot's camera or stream may come up after the node."""
    return replace(
        retry,
        default=True,
        description=f"{retry.description}; the default is false for files and images",
        default_for=lambda given: not given["source"] or may_appear(given["source"]),
    )


AUTOSTART = Parameter(
    "autostart",
    True,
    "configure and activate the node at its start; if false, wait for the transitions",
)

MAX_DETECTIONS = Parameter(
    "max_detections", 300, "maximum number of detections per frame", 1, 10000
)

MAX_RATE = Parameter(
    "max_rate",
    0.0,
    "maximum number of images per second and camera to process; 0 for no limit",
    0.0,
    1000.0,
    changeable=True,
)

LOOP = Parameter("loop", False, "play a file again after its end")

CAMERAS = Parameter(
    "cameras",
    [""],
    "names of the cameras, each with its topics under NAME/; [''] for one without a prefix",
)

SYNC_TOLERANCE = Parameter(
    "sync_tolerance",
    0.0,
    "seconds by which the stamps of detections and their image may differ; 0 for equal stamps",
    0.0,
    10.0,
    changeable=True,
)

SUBSCRIPTION = (
    Parameter(
        "image_transport",
        "raw",
        "raw subscribes to image_raw, compressed to image_raw/compressed",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "auto",
        "reliability of the image subscription; auto takes the publisher's",
        choices=("auto", "reliable", "best_effort"),
    ),
    Parameter(
        "image_timeout",
        5.0,
        "seconds without images after which a warning gives the likely reason",
        0.5,
        3600.0,
        changeable=True,
    ),
)

PUBLICATION = (
    Parameter(
        "camera_info_url",
        "",
        "calibration file to publish as camera_info and to store one in: a path, file:// or "
        "package://; empty for none",
    ),
    Parameter(
        "jpeg_quality",
        JPEG_QUALITY,
        "JPEG quality of image_raw/compressed",
        1,
        100,
        changeable=True,
    ),
)

DIAGNOSTICS = (
    Parameter(
        "diagnostics.stale_after",
        2.0,
        "seconds without images after which diagnostics report WARN",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.stopped_after",
        10.0,
        "seconds without images after which diagnostics report ERROR",
        0.1,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_age",
        0.5,
        "age of the results (p95, in seconds) above which diagnostics report WARN",
        0.001,
        3600.0,
        changeable=True,
    ),
    Parameter(
        "diagnostics.slow_rate",
        0.0,
        "results per second below which diagnostics report WARN; 0 for no limit",
        0.0,
        1000.0,
        changeable=True,
    ),
)

ONLY_ROS = {
    parameter.name
    for parameter in (
        *(AUTOSTART, MAX_DETECTIONS, MAX_RATE, LOOP, CAMERAS, SYNC_TOLERANCE),
        *(*SUBSCRIPTION, *PUBLICATION, *DIAGNOSTICS),
    )
}
"""The names of all parameters, of any node, that are no settings."""
