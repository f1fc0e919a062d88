"""Adds the examples of CONTRIBUTING.md to a copy of the package and runs them.

A Python block begins with the file that it is for: `# pipeline/capture/noise.py` makes a new file,
`# pipeline/sources.py, in KINDS` adds lines at the end of a table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n# (\S+\.py)(?:, in (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
USAGE = re.compile(r"^```python\n(?!# \S+\.py)(.*?)^```$", re.DOTALL | re.MULTILINE)
COPIED = ("pipeline", "nodes", "launch")
LINKED = ("models", "config")
CACHES = shutil.ignore_patterns("__pycache__")


def add_lines(text: str, table: str, lines: str) -> str:
    """`text` with `lines` at the end of the tuple, list, dict, function or class called `table`."""
    start = re.search(rf'^( *)(?:class |def )?"?{table}"?\b.*[(\[{{:]$', text, re.MULTILINE)
    assert start, f"there is no {table}"
    end = re.compile(rf"^(?! {{{len(start[1]) + 1}}})(?=.)", re.MULTILINE).search(
        text, start.end() + 1
    )
    assert end, f"{table} does not end"
    at = len(text[: end.start()].rstrip()) + 1
    return text[:at] + lines + text[at:]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the package with all examples in it."""
    tree = tmp_path_factory.mktemp("contributing")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tree / folder, ignore=CACHES)
    for folder in LINKED:
        (tree / folder).symlink_to(ROOT / folder)
    examples = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert examples
    for name, table, code in examples:
        file = tree / name
        assert file.exists() == bool(table), f"{name} is a new file exactly if no table is named"
        file.write_text(add_lines(file.read_text(), table, code) if table else code)
    return tree


@pytest.fixture
def run(tree, tmp_path):
    """Runs Python in the copy with `variables` in its environment; returns its output."""

    def run(*arguments: object, **variables: str) -> str:
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
        return outcome.stdout

    return run


@pytest.fixture
def vision(run):
    """Runs the `vision` command of the copy."""
    return partial(run, "-m", "pipeline.cli")


def usage_of(text: str) -> str:
    """The block of CONTRIBUTING.md that contains `text` and says how to use an example."""
    (code,) = [
        code for code in USAGE.findall((ROOT / "CONTRIBUTING.md").read_text()) if text in code
    ]
    return code


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
