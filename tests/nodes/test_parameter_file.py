"""config/vision.yaml has every parameter of every node, as the nodes declare them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "config" / "vision.yaml"
NODES = ("vision_node", "camera_node", "detector_node", "classifier_node")
INHERITED = ("use_sim_time", "start_type_description_service", "qos_overrides.")


def test_file_is_what_the_nodes_declare():
    written = subprocess.run(
        [sys.executable, "-m", "nodes.parameter_file"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert written.stdout == FILE.read_text(), (
        "update it: python -m nodes.parameter_file > config/vision.yaml"
    )


def test_running_nodes_accept_the_file_and_have_no_other_parameters(start_node, observer):
    sections = yaml.safe_load(FILE.read_text())
    assert set(sections) == {f"/**/{name}" for name in NODES}
    for name in NODES:
        start_node(name, {"autostart": False}, "--params-file", str(FILE))
    for name in NODES:
        given = sections[f"/**/{name}"]["ros__parameters"]
        answer = observer.call(ListParameters, f"{name}/list_parameters", ListParameters.Request())
        declared = {n for n in answer.result.names if not n.startswith(INHERITED)}
        assert declared == set(given)
        names = sorted(declared - {"autostart"})
        request = GetParameters.Request(names=names)
        values = observer.call(GetParameters, f"{name}/get_parameters", request).values
        got = {n: parameter_value_to_python(v) for n, v in zip(names, values, strict=True)}
        assert got == {n: pytest.approx(given[n]) if _is_float(given[n]) else given[n] for n in got}


def _is_float(value: object) -> bool:
    return isinstance(value, float)


def test_every_parameter_has_a_comment_above_it():
    lines = FILE.read_text().splitlines()
    entries = [i for i, line in enumerate(lines) if line.startswith("    ") and "# " not in line]
    assert entries
    assert all(lines[i - 1].startswith("    # ") for i in entries)
