"""The wheel and source archive are complete, and the installed package runs without a checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "out", "*.egg-info", "__pycache__", "docs", "benchmarks", "tests"
)
PACKAGED = (
    "models/yolov4-tiny-int8.onnx",
    "models/mobilenetv2-int8.onnx",
    "models/registry.toml",
    "models/imagenet_labels.txt",
    "models/samples/CREDITS.md",
    "models/samples/astronaut.jpg",
    "models/samples/cat.jpg",
    "models/samples/coffee.jpg",
)
KEYS = {  # of rosdep, for packages whose key is not `python3-` plus their name
    "opencv-python": "python3-opencv",
    "onnxruntime": "python3-onnxruntime-pip",
    "pyzmq": "python3-zmq",
    "pyyaml": "python3-yaml",
}
WITHOUT_KEY = {"msgspec", "tomli"}


def setup_argument(name: str):
    """A literal argument of `setup(...)` in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    return ast.literal_eval(next(word.value for word in call.keywords if word.arg == name))


@pytest.fixture(scope="module")
def manifest() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()  # noqa: S314 - our own file


def test_package_xml_has_format_3_and_agrees_with_setup_py(manifest):
    assert (manifest.tag, manifest.get("format")) == ("package", "3")
    assert manifest.findtext("name") == "vision"
    assert manifest.findtext("version") == setup_argument("version")
    assert manifest.findtext("license") == setup_argument("license")
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / manifest.findtext("name")).is_file()
    assert (ROOT / manifest.find("license").get("file")).is_file()


def test_maintainer_address_is_valid_for_build_tools(manifest):
    # The pattern of catkin_pkg; colcon builds a package that fails it as plain Python.
    address = manifest.find("maintainer").get("email")
    assert re.fullmatch(r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-z0-9]+(\.[-a-z0-9]+)+", address)
    assert address == setup_argument("maintainer_email")


def test_package_xml_names_every_requirement_of_setup_py(manifest):
    named = {element.text for element in manifest.findall("exec_depend")}
    required = {re.split(r"[<>=]", text)[0] for text in setup_argument("install_requires")}
    keys = {KEYS.get(name, f"python3-{name}") for name in required - WITHOUT_KEY}
    assert keys <= named


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources, because building writes into them."""
    copy = tmp_path_factory.mktemp("packaging") / "vision"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES)
    return copy


def run(*command: object, **settings) -> str:
    outcome = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **settings,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tree) -> Path:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", tree.parent, tree),
    )
    return next(tree.parent.glob("vision-*.whl"))


def test_wheel_contains_the_models_and_the_files_for_ros(wheel):
    names = {re.sub(r"^vision-[^/]*\.data/data/", "", name) for name in wheel_names(wheel)}
    assert {f"share/vision/{name}" for name in PACKAGED} <= names
    assert "share/vision/package.xml" in names
    assert "share/ament_index/resource_index/packages/vision" in names
    assert "pipeline/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_contains_no_other_packages(wheel):
    tops = {name.split("/")[0] for name in wheel_names(wheel)}
    assert {top for top in tops if not top.startswith("vision-")} == {"nodes", "pipeline"}


def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_source_archive_contains_everything_to_build_the_package(tree):
    run(sys.executable, "setup.py", "-q", "sdist", cwd=tree)
    with tarfile.open(next(tree.glob("dist/vision-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "setup.py",
        "setup.cfg",
        "pyproject.toml",
        "package.xml",
        "resource/vision",
        "LICENSE",
    }
    assert needed | set(PACKAGED) <= names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel installed, and the dependencies of this one."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--no-deps", "--no-index", wheel),
    )
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # This adds the folder without running its .pth files, so the checkout is not importable.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


def test_installed_command_runs_without_a_checkout(installed, tmp_path):
    bare = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    (tmp_path / "home").mkdir()
    command = installed / "bin" / "vision"
    listed = run(command, "models", "list", cwd=tmp_path, env=bare)
    assert str(installed / "share" / "vision" / "models" / "yolov4-tiny-int8.onnx") in listed
    image = tmp_path / "found.jpg"
    printed = run(command, "demo", "--max-frames", 30, "-o", image, cwd=tmp_path, env=bare)
    assert f"annotated image: {image}" in printed
    assert image.stat().st_size > 0
