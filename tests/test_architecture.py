"""The structure of the code: which folder imports which, and how long files and functions are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"types", "errors", "source", "step", "images", "settings", "paths", "opencv_logging"} | {
    *("ffmpeg", "files", "process", "text", "unclosed"),
}
ROOMS = {"runtime", "inference", "capture", "transport", "output", "zoo"}
HALL: dict[str, set[str]] = {
    "sources": {"capture", "transport"},
    "engine": {"runtime", "inference"},
    "publishing": {"output", "transport"},
    "outputs": {"output", "runtime", "engine", "publishing"},
}
"""The modules above the rooms, and what each of them may import besides the ground floor."""
NODE_FLOORS = ("parameters", "messages", "images", "nodes")
"""The folders of `nodes/`, each of which may import those before it."""
LONGEST_FILE = 400
LONGEST_FUNCTION = 40  # lines without the docstring
MOST_FILES = 13  # Python files in a folder, besides `__init__.py`

SOURCES = sorted((ROOT / "pipeline").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))
OTHERS = [
    path for folder in ("benchmarks", "recipes", "tests") for path in (ROOT / folder).rglob("*.py")
]
ALL_SOURCES = [*SOURCES, *NODES, *sorted(OTHERS)]
FOLDERS = sorted({path.parent for path in [*SOURCES, *NODES, *OTHERS] if "tests" not in path.parts})


def place_of(path: Path) -> str:
    """The room of a file, or its own name if it is a module above or below the rooms."""
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
        return  # it exports names of all rooms, and no module inside imports it
    place = place_of(path)
    assert place in BASE | ROOMS | set(HALL) | {"cli"}, f"{place} is not in the tables above"
    assert not used_places(path) - allowed_places(place)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_the_engine_imports_no_ros_and_no_public_names_of_its_own(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"rclpy", "launch", "nodes", "tests", "benchmarks", "recipes"}
    assert "pipeline" not in imported_modules(path)


@pytest.mark.parametrize("path", NODES, ids=named)
def test_the_nodes_use_the_engine_and_no_command_line(path):
    assert "cli" not in used_places(path)
    parts = path.relative_to(ROOT / "nodes").parts
    floor = NODE_FLOORS.index(parts[0] if len(parts) > 1 else "nodes")
    modules = [name.split(".") for name in imported_modules(path)]
    used = {name[1] for name in modules if name[0] == "nodes" and name[1] in NODE_FLOORS}
    assert used <= set(NODE_FLOORS[: floor + 1])
    assert "cv_bridge" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", [p for p in SOURCES if place_of(p) != "cli"], ids=named)
def test_only_the_command_line_imports_click(path):
    assert "click" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", ALL_SOURCES, ids=named)
def test_files_and_functions_are_short_enough_to_read(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [node.name for node in functions if length_of(node) > LONGEST_FUNCTION] == []


def length_of(function):
    """The number of lines of a function without its docstring."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        length -= docstring.end_lineno - docstring.lineno + 1
    return length


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_folders_have_few_files(folder):
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert len(files) <= MOST_FILES


def test_imports_of_modules_make_no_circle():
    imports = {module_of(path): set() for path in [*SOURCES, *NODES]}
    for path in [*SOURCES, *NODES]:
        for node in ast.parse(path.read_text()).body:  # those inside functions come later
            if isinstance(node, ast.ImportFrom):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                imports[module_of(path)] |= names & set(imports)
    while leaves := {module for module, used in imports.items() if not used - {module}}:
        imports = {name: used - leaves for name, used in imports.items() if name not in leaves}
    assert sorted(imports) == []


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
