"""Builds the interface package `vision_msgs` into the virtual environment that runs this script.

The environment contains ROS 2 from wheels and is CMake's search and installation prefix. The type
hashes below are those of vision_msgs 4.1.1: equal hashes mean compatible messages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

SOURCES = Path(__file__).resolve().parent / "vision_msgs"
PREFIX = Path(sys.prefix)
HASHES = {
    "Point2D": "RIHS01_eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247",
    "Pose2D": "RIHS01_b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648",
    "BoundingBox2D": "RIHS01_008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f",
    "ObjectHypothesis": "RIHS01_51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "ObjectHypothesisWithPose": (
        "RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc"
    ),
    "Detection2D": "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "VisionClass": "RIHS01_1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
    "LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "VisionInfo": "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
}


def main() -> None:
    """Build, install and check; an error is printed on one line."""
    if sys.prefix == sys.base_prefix:
        sys.exit("build_messages: expected the Python of a virtual environment, to install into it")
    fix_cmake_files()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
    wrong = sorted(name for name, expected in HASHES.items() if installed_hash(name) != expected)
    if wrong:
        sys.exit(f"build_messages: expected vision_msgs 4.1.1, but {', '.join(wrong)} differ")


def fix_cmake_files() -> None:
    """Replace the header paths of the build machine in the wheels' CMake targets."""
    build_python = r"/opt/python/cp\d+-cp\d+"
    here = {
        rf"{build_python}/include/python[\d.]+": sysconfig.get_path("include"),
        rf"{build_python}/lib/python[\d.]+/site-packages/numpy/\w+/include": np.get_include(),
    }
    for file in (PREFIX / "share").glob("*/cmake/*.cmake"):
        text = fixed = file.read_text()
        for pattern, folder in here.items():
            fixed = re.sub(pattern, folder, fixed)
        if fixed != text:
            file.write_text(fixed)


def build(folder: Path) -> None:
    """Configure, build and install the package with the tools of this environment."""
    search = os.pathsep.join([str(PREFIX / "bin"), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": search, "AMENT_PREFIX_PATH": str(PREFIX)}
    settings = {
        "BUILD_TESTING": "OFF",
        "CMAKE_BUILD_TYPE": "Debug",  # compiling with optimisation takes longer than it saves
        "CMAKE_INSTALL_PREFIX": PREFIX,
        "CMAKE_PREFIX_PATH": PREFIX,
        "Python3_EXECUTABLE": sys.executable,
    }
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    jobs = str(os.cpu_count() or 1)
    commands = (
        ["cmake", "-S", SOURCES, "-B", folder, *defined],
        ["cmake", "--build", folder, "--target", "install", "--parallel", jobs],
    )
    for command in commands:
        outcome = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if outcome.returncode != 0:
            sys.exit(f"{outcome.stdout}\nbuild_messages: {command[0]} {command[1]} failed")


def installed_hash(name: str) -> str | None:
    """The type hash of an installed message, or None if the description lacks it."""
    file = PREFIX / "share" / "vision_msgs" / "msg" / f"{name}.json"
    known = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(file.read_text())["type_hashes"]
    }
    return known.get(f"vision_msgs/msg/{name}")


if __name__ == "__main__":
    main()
