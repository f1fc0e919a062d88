"""Runs the examples of CONTRIBUTING.md, in a copy of the package that has all of them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .contributing import CONTRIBUTING, ROOT, copy_with_examples, usage_of

FAILS = "import sys; from pipeline.cli.main import main; sys.exit(main(sys.argv[1:]) != 2)"
"""Runs `vision` and succeeds if that refuses its input."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return copy_with_examples(tmp_path_factory.mktemp("contributing"))


@pytest.fixture
def run(tree, tmp_path):
    """Runs Python in the copy with environment `variables`; returns its output, or `errors`."""

    def run(*arguments: object, errors: bool = False, **variables: str) -> str:
        outcome = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "100", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stderr if errors else outcome.stdout

    return run


@pytest.fixture
def vision(run):
    """Runs the `vision` command of the copy."""
    return partial(run, "-m", "pipeline.cli")


def test_source_opens_in_python_and_on_the_command_line(run, vision, tmp_path):
    lines = run("-c", usage_of("noise:3")).splitlines()
    assert lines == [f"noise {seq} (32, 64, 3)" for seq in range(3)]
    stats = tmp_path / "stats.json"
    vision("run", "noise:2", "--classifier", "none", "--stats", stats)
    assert json.loads(stats.read_text())["captured"] == 2


def test_source_refuses_bad_input_and_is_listed(run):
    message = "expected noise:COUNT, such as noise:100"
    assert message in run("-c", FAILS, "run", "noise:x", errors=True)
    assert "noise:COUNT" in run("-c", FAILS, "run", "unknown:x", errors=True)


def test_output_refuses_the_file_of_another_output(run):
    shared = ("run", "noise:1", "--csv", "found", "--jsonl", "found")
    assert "is the file of" in run("-c", FAILS, *shared, errors=True)


def test_output_writes_a_file(vision, tmp_path):
    assert "write one CSV row per object" in vision("run", "--help")
    vision("run", ROOT / "models" / "samples", "--csv", "found.csv", "--classifier", "none")
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert {row[2] for row in rows} >= {"person", "cat", "cup"}
    assert {row[0] for row in rows} == {"samples"}
    assert all(len(row) == 8 and float(row[3]) >= 0.25 for row in rows)


def boxes_network(path: Path, rows: np.ndarray) -> Path:
    """Write a graph that gives `rows` for any 32x16 image."""
    value, weight = helper.make_tensor_value_info, numpy_helper.from_array
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["f"], ["m"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["m", "zero"], ["z"]),
            helper.make_node("Add", ["z", "rows"], ["found"]),
        ],
        "boxes",
        [value("x", TensorProto.UINT8, [1, 16, 32, 3])],
        [value("found", TensorProto.FLOAT, [1, *rows.shape])],
        [weight(np.zeros((1, 1, 1), np.float32), "zero"), weight(rows[None], "rows")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_detector_family_decodes_a_network(vision, tmp_path):
    rows = np.array(
        [[8, 4, 16, 12, 0.9, 1], [8, 4, 16, 11, 0.8, 1], [0, 0, 9, 9, 0.1, 0]], np.float32
    )
    model = boxes_network(tmp_path / "boxes.onnx", rows)
    manifest = tmp_path / "boxes.toml"
    (text,) = re.findall(r"^```toml\n(.*?)^```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)
    manifest.write_text(text)
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((32, 64, 3), np.uint8))
    line = vision(
        *("run", tmp_path / "image.png", "--detector", model, "--manifest", manifest),
        *("--classifier", "none", "--jsonl", "-", "--quiet"),
    )
    (found,) = json.loads(line)["objects"]  # one is suppressed, one has too low a score
    assert (found["label"], found["score"], found["box"]) == ("cat", 0.9, [16, 8, 32, 24])


def test_step_runs_between_detector_and_classifier(run):
    program = usage_of("KeepLabels").replace('"0"', '"scene:?fps=0"')
    labels = set(re.findall(r"'(\w+)'", run("-c", program)))
    assert labels == {"cat"}  # the scene also shows a person and a cup


def test_setting_is_an_option_a_variable_and_a_key(vision, tmp_path):
    assert "--min-size PIXELS" in vision("run", "--help")
    assert re.search("^min_size: 1 .*default", vision("config"), re.MULTILINE)
    shown = vision("config", VISION_MIN_SIZE="8")
    assert re.search("^min_size: 8 .*VISION_MIN_SIZE", shown, re.MULTILINE)
    (tmp_path / "robot.yaml").write_text("min_size: 16\n")
    shown = vision("config", "--config", tmp_path / "robot.yaml")
    assert re.search("^min_size: 16 .*robot.yaml", shown, re.MULTILINE)


def test_command_is_listed_and_runs(vision):
    assert "Count the objects in a source by label" in vision("--help")
    assert "SOURCE" in vision("count", "--help")
    lines = vision("count", ROOT / "models" / "samples").splitlines()
    assert {tuple(line.split()) for line in lines} >= {("1", "cat"), ("1", "person")}
