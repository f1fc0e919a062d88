"""Publishes rates, ages and stage times of the last seconds on `/diagnostics`."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from nodes.parameters import Parameters
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.paths import sha256_of
from pipeline.runtime.statistics import Durations

TOPIC = "/diagnostics"
WINDOW_S = 10.0
AHEAD_MS = 50.0  # two synchronised clocks differ by less

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def model_info(**models: Detector | Classifier | None) -> dict[str, str]:
    """The file, labels, SHA-256, provider and threads of each model, by its name."""
    info = {}
    for name, user in models.items():
        if user is None:
            continue
        model = user.model
        info[name] = f"{model.path.name} ({len(user.labels)} labels)"
        info[f"{name} sha256"] = sha256_of(model.path)
        info[f"{name} provider"] = ", ".join(model.session.get_providers())
        info[f"{name} threads"] = str(model.threads)
    return info


def recent() -> Durations:
    """The durations of the last `WINDOW_S` seconds."""
    return Durations(WINDOW_S)


class Rate:
    """The rate at which a count has grown over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def per_second(self, count: int) -> float:
        """The rate, given the present count; call about once a second."""
        now_s = time.monotonic()
        self._samples.append((now_s, count))
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        since_s, before = self._samples[0]
        return (count - before) / (now_s - since_s) if now_s > since_s else 0.0


@dataclass(eq=False)
class Activity:
    """Counts, ages and stage times of one camera.

    - `received`: images; `refused`: those that could not be read; `dropped`: those replaced by
      newer ones
    - `published`: results; `images_dropped`: their images that no subscriber took in time
    - `refusal`: why the last refused image could not be read
    - `unstamped`: images whose stamp is 0; they have no age
    - `ages_ms`: from capture to publication
    - `last_s`: `time.monotonic` at the last image
    - `awaited`: what has not come if nothing comes, for the message
    """

    name: str
    received: int = 0
    published: int = 0
    dropped: int = 0
    refused: int = 0
    refusal: str = ""
    unstamped: int = 0
    images_dropped: int = 0
    ages_ms: Durations = field(default_factory=recent)
    stages_ms: defaultdict[str, Durations] = field(default_factory=lambda: defaultdict(recent))
    last_s: float = field(default_factory=time.monotonic)
    awaited: str = "image"
    rate_in: Rate = field(default_factory=Rate)
    rate_out: Rate = field(default_factory=Rate)

    def record(self, now_ns: int, stamp_ns: int, stage_ns: Mapping[str, int]) -> None:
        """Count a result that is published now."""
        self.published += 1
        if stamp_ns:
            self.ages_ms.add((now_ns - stamp_ns) / 1e6)
        else:
            self.unstamped += 1
        for name, duration_ns in stage_ns.items():
            self.stages_ms[name].add(duration_ns / 1e6)

    def refuse(self, reason: str) -> None:
        """Count an image that could not be read."""
        self.refused += 1
        self.refusal = reason

    def settle(self) -> None:
        """At the end of a run, count the images that gave no result as dropped."""
        self.dropped = self.received - self.refused - self.published


class Diagnostics:
    """Publishes one status per camera; `info` (provider, model, ...) is part of each."""

    def __init__(self, node: Node, parameters: Parameters) -> None:
        self._node = node
        self._parameters = parameters
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, 10)

    def publish(
        self,
        activities: Sequence[Activity],
        info: Mapping[str, str],
        *,
        state: str,
        problem: str = "",
        enabled: bool = True,
    ) -> None:
        """Publish the statuses; `problem` says why the node does not work, if it does not."""
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
            values = {**_figures(activity, rate_in, rate_out), **info}
            message.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {activity.name}",
                    message=text,
                    hardware_id=activity.name,
                    values=[KeyValue(key=key, value=value) for key, value in values.items()],
                )
            )
        self._publisher.publish(message)

    def _judge(self, activity: Activity, rate_out: float) -> tuple[bytes, str]:
        silent_s = time.monotonic() - activity.last_s
        if silent_s >= self._parameters["diagnostics.stopped_after"]:
            return ERROR, f"stopped: no {activity.awaited} for {silent_s:.0f} s"
        if silent_s >= self._parameters["diagnostics.stale_after"]:
            return WARN, f"stale: no {activity.awaited} for {silent_s:.1f} s"
        if rate_out == 0 and activity.refused:
            return ERROR, f"every image is refused: {activity.refusal}"
        problem = self._problem_of_clocks(activity) or self._slowness(activity, rate_out)
        return (WARN, problem) if problem else (OK, f"{rate_out:.1f} results per second")

    def _slowness(self, activity: Activity, rate_out: float) -> str:
        """What exceeds the limits of the parameters; empty if nothing does."""
        ages_ms = activity.ages_ms.percentiles()
        if ages_ms is not None and ages_ms[1] > 1e3 * self._parameters["diagnostics.slow_age"]:
            return f"slow: results are {ages_ms[1] / 1e3:.3f} s old (p95)"
        if rate_out < self._parameters["diagnostics.slow_rate"] and activity.published:
            return f"slow: {rate_out:.1f} results per second"
        return ""

    def _problem_of_clocks(self, activity: Activity) -> str:
        """Why ages cannot be known; empty if they can."""
        clock = self._node.get_clock()
        if clock.ros_time_is_active and not clock.now().nanoseconds:
            return "use_sim_time is true, but no time has come on /clock"
        if activity.unstamped:
            return "images have no time stamp (0), so their age is unknown; stamp them at capture"
        ages_ms = activity.ages_ms.percentiles()
        if ages_ms is None or ages_ms[0] >= -AHEAD_MS:
            return ""
        return (
            f"images are stamped {-ages_ms[0] / 1e3:.1f} s ahead of this node's clock; synchronise "
            f"the clocks of both machines, and give both nodes the same use_sim_time"
        )


def _figures(activity: Activity, rate_in: float, rate_out: float) -> dict[str, str]:
    figures = {
        "rate in (Hz)": f"{rate_in:.2f}",
        "rate out (Hz)": f"{rate_out:.2f}",
        "received": str(activity.received),
        "published": str(activity.published),
        "dropped": str(activity.dropped),
        "refused": str(activity.refused),
        "images dropped": str(activity.images_dropped),
    }
    for name, durations in (("age", activity.ages_ms), *sorted(activity.stages_ms.items())):
        values_ms = durations.percentiles()
        if values_ms is not None:
            for percent, value_ms in zip(("p50", "p95", "p99"), values_ms, strict=True):
                figures[f"{name} {percent} (ms)"] = f"{value_ms:.2f}"
    return figures
