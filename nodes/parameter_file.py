"""Writes config/vision.yaml: every parameter of every node, its default, and what it means.

python -m nodes.parameter_file > config/vision.yaml
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

import rclpy
import yaml

from nodes.camera_node import CameraNode
from nodes.classifier_node import ClassifierNode
from nodes.detector_node import DetectorNode
from nodes.lifecycle import ManagedNode
from nodes.vision_node import VisionNode

NODES: tuple[Callable[[], ManagedNode], ...] = (
    VisionNode,
    CameraNode,
    DetectorNode,
    ClassifierNode,
)
# What every node of rclpy has, and what our topics' QoS adds.
NOT_OURS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
WIDTH = 100
TITLE = """\
# Every parameter of every node, with its default: copy it, change what you need, and pass it as
# `ros2 launch vision detect.launch.py params_file:=/path/to/it.yaml`, or to one node with
# `ros2 run vision vision_node --ros-args --params-file /path/to/it.yaml`.
# The names before ros__parameters fit the nodes in every namespace.
"""


def parameter_file() -> str:
    """The whole file; rclpy must be initialised."""
    return TITLE + "".join(_section(kind()) for kind in NODES)


def own_parameters(names: list[str]) -> list[str]:
    """The names of our own parameters among those of a node."""
    return [name for name in names if not name.startswith(NOT_OURS)]


def _section(node: ManagedNode) -> str:
    lines = ["", f"/**/{node.get_name()}:", "  ros__parameters:"]
    for name in own_parameters(list(node.get_parameters_by_prefix(""))):
        lines += _entry(name, node.get_parameter(name).value, node.describe_parameter(name))
    node.destroy_node()
    return "\n".join(lines) + "\n"


def _entry(name: str, default: Any, described: Any) -> list[str]:
    spans = (*described.floating_point_range, *described.integer_range)
    remarks = [described.description, *(f"{s.from_value:g} to {s.to_value:g}" for s in spans)]
    if described.additional_constraints:
        remarks.append(described.additional_constraints)
    if not described.read_only:
        remarks.append("may be changed while running")
    comment = textwrap.wrap("; ".join(remarks), WIDTH - 6)
    value = yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
    return [*(f"    # {line}" for line in comment), f"    {name}: {value}"]


def main() -> None:
    """Write the file to standard output."""
    rclpy.init()
    sys.stdout.write(parameter_file())
    rclpy.shutdown()


if __name__ == "__main__":
    main()
