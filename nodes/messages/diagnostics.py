"""What a node is doing, for `/diagnostics`: rates, ages and times of the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from nodes.parameters.declaration import Parameters

TOPIC = "/diagnostics"
WINDOW_S = 10.0
LONGEST = 4096  # values in a window, however fast they come

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Recent:
    """The values of the last `WINDOW_S` seconds; one thread adds while another looks."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=LONGEST)

    def add(self, value: float) -> None:
        """Record a value now."""
        self._values.append((time.monotonic(), value))

    def percentiles(self) -> tuple[float, float, float] | None:
        """p50, p95 and p99; None where there is no value."""
        since_s = time.monotonic() - WINDOW_S
        values = [value for at_s, value in self._values.copy() if at_s >= since_s]
        if not values:
            return None
        p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
        return p50, p95, p99


class Rate:
    """How fast a count has grown over the last `WINDOW_S` seconds, looked at once a second."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def per_second(self, count: int) -> float:
        """The rate, given the count of now."""
        now_s = time.monotonic()
        self._looks.append((now_s, count))
        while now_s - self._looks[0][0] > WINDOW_S:
            self._looks.popleft()
        since_s, before = self._looks[0]
        return (count - before) / (now_s - since_s) if now_s > since_s else 0.0


@dataclass(eq=False)
class Activity:
    """What happened to one camera's images.

    `received` of them came in, `published` results went out, `dropped` were passed over for newer
    ones, `refused` could not be read. `ages` are the seconds from capture to publication.
    """

    name: str
    received: int = 0
    published: int = 0
    dropped: int = 0
    refused: int = 0
    ages: Recent = field(default_factory=Recent)
    stages: dict[str, Recent] = field(default_factory=dict)
    last_s: float = field(default_factory=time.monotonic)
    rate_in: Rate = field(default_factory=Rate)
    rate_out: Rate = field(default_factory=Rate)

    def record(self, age_s: float, stage_ns: Mapping[str, int]) -> None:
        """Count a result that goes out now."""
        self.published += 1
        self.ages.add(age_s)
        for name, duration_ns in stage_ns.items():
            self.stages.setdefault(name, Recent()).add(duration_ns / 1e6)

    def settle(self) -> None:
        """Nothing is under way any more: what did not come out was dropped."""
        self.dropped = self.received - self.refused - self.published


class Diagnostics:
    """Publishes one status for each camera; `facts` (provider, model, ...) go with every one."""

    def __init__(self, node: Node, parameters: Parameters) -> None:
        self._node = node
        self._parameters = parameters
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, 10)

    def publish(
        self,
        activities: Sequence[Activity],
        facts: Mapping[str, str],
        *,
        state: str,
        problem: str = "",
        enabled: bool = True,
    ) -> None:
        """Send the statuses; `problem` says why the node is not working, where it is not."""
        rates = [
            (a.rate_in.per_second(a.received), a.rate_out.per_second(a.published))
            for a in activities
        ]
        if not self._publisher.get_subscription_count():
            return
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for activity, (rate_in, rate_out) in zip(activities, rates, strict=True):
            level, text = OK, state if enabled else "paused"
            if problem:
                level, text = ERROR, problem
            elif state == "active" and enabled:
                level, text = self._judge(activity, rate_out)
            message.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {activity.name}",
                    message=text,
                    hardware_id=activity.name,
                    values=_values({**_figures(activity, rate_in, rate_out), **facts}),
                )
            )
        self._publisher.publish(message)

    def _judge(self, activity: Activity, rate_out: float) -> tuple[bytes, str]:
        limits = self._parameters
        silent_s = time.monotonic() - activity.last_s
        if silent_s >= limits["diagnostics.stopped_after"]:
            return ERROR, f"stopped: no image for {silent_s:.0f} s"
        if silent_s >= limits["diagnostics.stale_after"]:
            return WARN, f"stale: no image for {silent_s:.1f} s"
        ages = activity.ages.percentiles()
        if ages is not None and ages[1] > limits["diagnostics.slow_age"]:
            return WARN, f"slow: results are {ages[1]:.3f} s old (p95)"
        if rate_out < limits["diagnostics.slow_rate"] and activity.published:
            return WARN, f"slow: {rate_out:.1f} results a second"
        return OK, f"{rate_out:.1f} results a second"


def _figures(activity: Activity, rate_in: float, rate_out: float) -> dict[str, str]:
    figures = {
        "rate in (Hz)": f"{rate_in:.2f}",
        "rate out (Hz)": f"{rate_out:.2f}",
        "received": str(activity.received),
        "published": str(activity.published),
        "dropped": str(activity.dropped),
        "refused": str(activity.refused),
    }
    for name, recent in (("age", activity.ages), *sorted(activity.stages.items())):
        values = recent.percentiles()
        if values is not None:
            scale = 1e3 if name == "age" else 1.0
            for percent, value in zip(("p50", "p95", "p99"), values, strict=True):
                figures[f"{name} {percent} (ms)"] = f"{value * scale:.2f}"
    return figures


def _values(figures: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in figures.items()]
