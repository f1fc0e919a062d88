"""The house rules, read from the sources: which room imports which, and how long things may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"types", "errors", "source", "step", "images", "settings", "paths", "opencv_logging"}
ROOMS = {"runtime", "inference", "capture", "transport", "output", "zoo"}
HALL: dict[str, set[str]] = {
    "sources": {"capture", "transport"},
    "engine": {"runtime", "inference"},
    "publishing": {"output", "transport"},
    "outputs": {"output", "runtime", "engine", "publishing"},
}
"""What stands above the rooms, beside one another, and the rooms that each may use."""
LONGEST_FILE = 450
LONGEST_FUNCTION = 60

SOURCES = sorted((ROOT / "pipeline").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
ALL_SOURCES = [*SOURCES, *NODES, *RECIPES, *sorted((ROOT / "tests").rglob("*.py"))]


def place_of(path: Path) -> str:
    """The room a file stands in, or its own name where it stands in the hall."""
    parts = path.relative_to(ROOT / "pipeline").with_suffix("").parts
    return parts[0]


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where the arrows point"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def used_places(path: Path) -> set[str]:
    modules = [name.split(".") for name in imported_modules(path)]
    return {parts[1] for parts in modules if parts[0] == "pipeline" and len(parts) > 1}


def allowed_places(place: str) -> set[str]:
    if place in BASE:
        return BASE
    if place in ROOMS:
        return BASE | {place} | ({"inference"} if place == "zoo" else set())
    if place in HALL:
        return BASE | HALL[place]
    return BASE | ROOMS | set(HALL) | {"cli"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_arrows_point_one_way(path):
    if path == ROOT / "pipeline" / "__init__.py":
        return  # it gives names of all rooms, and nobody inside imports it
    place = place_of(path)
    assert place in BASE | ROOMS | set(HALL) | {"cli"}, f"{place} has no place in the house"
    assert not used_places(path) - allowed_places(place)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_the_engine_knows_no_ros_and_nobody_imports_the_front_door(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"rclpy", "launch", "nodes", "tests", "benchmarks", "recipes"}
    assert "pipeline" not in imported_modules(path)


@pytest.mark.parametrize("path", NODES, ids=named)
def test_the_nodes_use_the_engine_and_no_command_line(path):
    assert "cli" not in used_places(path)
    assert "cv_bridge" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", [p for p in SOURCES if place_of(p) != "cli"], ids=named)
def test_the_command_line_stays_in_its_room(path):
    assert "click" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", ALL_SOURCES, ids=named)
def test_files_and_functions_are_short_enough_to_read(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    functions = [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [(name, length) for name, length in functions if length > LONGEST_FUNCTION] == []
