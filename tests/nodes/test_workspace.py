"""The package in a colcon workspace: built with and without symlinks, and run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from nodes.messages.headers import stamp_ns

ROOT = Path(__file__).resolve().parents[2]
PREFIX = Path(sys.prefix)
NODES = ("vision_node", "camera_node", "detector_node", "classifier_node")
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "install", "log", "dist", "*.egg-info", "__pycache__", "benchmarks", "tests"
)
SCENE = "source:='scene:?size=320x240&fps=10'"  # quotes for YAML, as on any ROS command line


@pytest.fixture(scope="module")
def ros_environment(own_domain) -> dict[str, str]:
    """The variables that `source /opt/ros/DISTRO/setup.bash` sets, for the test environment."""
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(PREFIX / "bin"), os.environ["PATH"]])
    environment["AMENT_PREFIX_PATH"] = str(PREFIX)
    return environment


@pytest.fixture(
    scope="module",
    params=[pytest.param((), id="plain"), pytest.param(("--symlink-install",), id="symlink")],
)
def workspace(request, tmp_path_factory, ros_environment) -> Path:
    """A workspace with the package built in it."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT, folder / "src" / "vision", ignore=NOT_SOURCES)

    def colcon(*arguments: str) -> str:
        outcome = subprocess.run(
            [sys.executable, "-m", "colcon", *arguments],
            cwd=folder,
            env=ros_environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    assert colcon("list").split() == ["vision", "src/vision", "(ros.ament_python)"]
    colcon("build", *request.param)
    return folder


@pytest.fixture
def start_installed(workspace, start_process, ros_environment, namespace, tmp_path):
    """Starts an installed command in a shell that has sourced the workspace."""

    def start(command: str, *arguments: str):
        words = shlex.join(["exec", command, *arguments])
        script = f"unset PYTHONPATH; source install/setup.bash && {words}"
        return start_process(
            *("bash", "-c", f"cd {shlex.quote(str(workspace))} && {script}"),
            AMENT_PREFIX_PATH=ros_environment["AMENT_PREFIX_PATH"],
            XDG_CACHE_HOME=tmp_path,  # without the user's own models
        )

    return start


def test_every_imported_ros_package_is_a_dependency():
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    imports = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
    imported = {name for file in files for name in imports.findall(file.read_text())}
    ours = {"nodes", "pipeline", "cv2", "numpy", "yaml", *sys.stdlib_module_names}
    declared = re.findall("<exec_depend>(.*)</exec_depend>", (ROOT / "package.xml").read_text())
    assert imported - ours <= set(declared)


def test_workspace_has_the_files_for_ros2_run_and_ros2_launch(workspace):
    installed = workspace / "install" / "vision"
    assert all(os.access(installed / "lib" / "vision" / node, os.X_OK) for node in NODES)
    share = installed / "share" / "vision"
    for file in (
        *("package.xml", "launch/detect.launch.py", "config/vision.yaml"),
        *("models/yolov4-tiny-int8.onnx", "models/registry.toml", "models/samples/astronaut.jpg"),
    ):
        assert (share / file).is_file(), file
    index = installed / "share" / "ament_index" / "resource_index" / "packages" / "vision"
    assert index.is_file()


def test_workspace_uses_its_own_modules_and_models(workspace, start_installed):
    process = start_installed(
        sys.executable,
        "-c",
        "import nodes, pipeline.paths; print(nodes.__file__, *pipeline.paths.share_dirs())",
    )
    assert process.wait() == 0
    places = [Path(text) for text in process.log.split()]
    assert all(place.resolve().is_relative_to(workspace) for place in places), places
    assert workspace / "install" / "vision" / "share" / "vision" / "models" in places


def test_installed_vision_node_detects_objects_and_ends_cleanly(
    workspace, start_installed, observer, namespace, wait_until
):
    found = observer.subscribe(Detection2DArray, "detections")
    images = observer.subscribe(Image, "image_raw")
    node = start_installed(
        str(workspace / "install" / "vision" / "lib" / "vision" / "vision_node"),
        *("--ros-args", "-r", f"__ns:={namespace}"),
        *("--params-file", str(workspace / "install/vision/share/vision/config/vision.yaml")),
        *("-p", SCENE, "-p", "score_threshold:=0.1"),
    )

    def both() -> list:
        """Detections with objects, and their image; subscriptions connect in any order."""
        stamps = {stamp_ns(image.header): image for image in images.messages}
        of = ((message, stamps.get(stamp_ns(message.header))) for message in found.messages)
        return next(([m, image] for m, image in of if m.detections and image is not None), [])

    message, image = wait_until(both, "objects and their image", 120)
    assert message.header.frame_id == "scene"
    assert (image.header, image.width) == (message.header, 320)
    assert node.stop(signal.SIGINT) == 0
    assert "Traceback" not in node.log


def test_installed_camera_node_publishes_images(workspace, start_installed, observer, namespace):
    images = observer.subscribe(Image, "image_raw")
    node = start_installed(
        str(workspace / "install" / "vision" / "lib" / "vision" / "camera_node"),
        *("--ros-args", "-r", f"__ns:={namespace}", "-p", SCENE),
    )
    (image,) = images.wait()
    assert (image.width, image.height, image.encoding) == (320, 240, "bgr8")
    assert node.stop(signal.SIGTERM) == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize("composed", ["true", "false"])
def test_launch_file_runs_all_nodes(start_installed, observer, namespace, composed):
    ros2 = shutil.which("ros2", path=os.pathsep.join([str(PREFIX / "bin"), os.environ["PATH"]]))
    if ros2 is None or importlib.util.find_spec("ros2launch") is None:
        pytest.skip("needs ros2 launch, of a ROS 2 distribution")
    topic = "detections"
    found = observer.subscribe(Detection2DArray, topic)
    launch = start_installed(
        *(ros2, "launch", "vision", "detect.launch.py"),
        *("source:=scene:?size=320x240&fps=10", f"composed:={composed}"),
        *(f"namespace:={namespace}", "score_threshold:=0.1"),
    )
    launch.wait_for_log("process started")
    message = found.wait_for(lambda message: message.detections, timeout_s=120)
    ids = [result.hypothesis.class_id for result in message.detections[0].results]
    assert len(ids) > 1
    assert all(name.startswith("imagenet/") for name in ids[1:])
    launch.stop(signal.SIGINT)
    assert launch.count("process has finished cleanly") == (1 if composed == "true" else 3)
