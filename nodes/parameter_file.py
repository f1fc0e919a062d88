"""Writes config/vision.yaml: every parameter of every node, with its default and description.

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
# Parameters of every rclpy node, and of the topics' QoS overrides.
INHERITED = ("use_sim_time", "start_type_description_service", "qos_overrides.")
WIDTH = 100
TITLE = """\
# Every parameter of every node, with its default. Copy this file, change values, and pass it with
# `ros2 launch vision detect.launch.py params_file:=/path/to/file.yaml`, or to one node with
# `ros2 run vision vision_node --ros-args --params-file /path/to/file.yaml`.
# The names before ros__parameters match the nodes in every namespace.
"""


def parameter_file() -> str:
    """The content of the file; rclpy must be initialised."""
    return TITLE + "".join(_section(kind()) for kind in NODES)


def own_parameters(names: list[str]) -> list[str]:
    """The names that the node itself declares, among all its parameters."""
    return [name for name in names if not name.startswith(INHERITED)]


def _section(node: ManagedNode) -> str:
    lines = ["", f"/**/{node.get_name()}:", "  ros__parameters:"]
    for name in own_parameters(list(node.get_parameters_by_prefix(""))):
        lines += _entry(name, node.get_parameter(name).value, node.describe_parameter(name))
    node.destroy_node()
    return "\n".join(lines) + "\n"


def _entry(name: str, default: Any, described: Any) -> list[str]:
    ranges = (*described.floating_point_range, *described.integer_range)
    remarks = [described.description, *(f"{r.from_value:g} to {r.to_value:g}" for r in ranges)]
    if described.additional_constraints:
        remarks.append(described.additional_constraints)
    if not described.read_only:
        remarks.append("can be changed while running")
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
