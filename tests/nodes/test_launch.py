"""The launch file: its arguments and the nodes that it starts. Needs a ROS distribution."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="needs launch and launch_ros, of a ROS 2 distribution")

from launch import LaunchContext, LaunchService
from launch.actions import DeclareLaunchArgument
from launch.utilities import perform_substitutions
from launch_ros.actions import Node
from launch_ros.utilities import evaluate_parameters

from pipeline.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "detect.launch.py"
ARGUMENTS = {
    *("source", "image_topic", "composed", "detector", "classifier", "score_threshold"),
    *("nms_threshold", "threads", "image_transport", "reliability", "namespace", "params_file"),
    *("use_sim_time", "log_level", "autostart", "respawn", "rviz", "width", "height", "fps"),
    *("frame_id", "camera_info_url", "retry", "loop", "max_rate", "cameras"),
}


@pytest.fixture(scope="module")
def launch_file():
    spec = importlib.util.spec_from_file_location("detect_launch", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def started(launch_file):
    """The nodes that the arguments select, by executable; nothing runs."""

    def start(**arguments: str) -> dict[str, Node]:
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        for entity in launch_file.generate_launch_description().entities:
            if isinstance(entity, DeclareLaunchArgument):
                entity.visit(context)
        nodes = launch_file.start_nodes(context)
        return {node.node_executable: node for node in nodes}

    return start


def given_parameters(node: Node) -> dict[str, object]:
    """The parameters from the arguments, which follow those of a file."""
    given = evaluate_parameters(LaunchContext(), node._Node__parameters)
    files = [part for part in given if isinstance(part, Path)]
    assert all(file.name == "mine.yaml" for file in files)
    values = [part for part in given if not isinstance(part, Path)]
    return {n: getattr(value, "value", value) for one in values for n, value in one.items()}


def remappings_of(node: Node) -> list[tuple[str, str]]:
    rules = node.expanded_remapping_rules or node._Node__remappings
    return [tuple(perform_substitutions(LaunchContext(), list(part)) for part in r) for r in rules]


def test_every_argument_has_a_description_and_a_default(launch_file):
    declared = {a.name: a for a in launch_file.generate_launch_description().get_launch_arguments()}
    assert set(declared) == ARGUMENTS
    for argument in declared.values():
        assert argument.default_value is not None
        assert len(argument.description) > 10
    assert declared["score_threshold"].description.startswith(SETTINGS["score"].about.help)
    context = LaunchContext()
    assert perform_substitutions(context, declared["composed"].default_value) == "true"
    assert declared["reliability"].choices == ["", "auto", "reliable", "best_effort"]


def test_composed_starts_one_node_with_the_arguments_as_parameters(started):
    nodes = started(
        source="0", detector="mine.onnx", score_threshold="0.5", threads="2", use_sim_time="True"
    )
    assert list(nodes) == ["vision_node"]
    assert given_parameters(nodes["vision_node"]) == {
        "source": "0",
        "detector": "mine.onnx",
        "score_threshold": 0.5,
        "threads": 2,
        "use_sim_time": True,
    }


def test_not_composed_starts_three_nodes_each_with_its_own_parameters(started):
    nodes = started(
        source="scene:",
        composed="false",
        threads="1",
        image_transport="compressed",
        autostart="false",
    )
    assert list(nodes) == ["camera_node", "detector_node", "classifier_node"]
    common = {"autostart": False}
    listening = {**common, "threads": 1, "image_transport": "compressed"}
    assert given_parameters(nodes["camera_node"]) == {**common, "source": "scene:"}
    assert given_parameters(nodes["detector_node"]) == listening
    assert given_parameters(nodes["classifier_node"]) == listening


def test_image_topic_needs_no_camera_node_and_none_no_classifier_node(started):
    nodes = started(composed="false", image_topic="/camera/image_raw", classifier="none")
    assert list(nodes) == ["detector_node"]
    assert remappings_of(nodes["detector_node"]) == [("image_raw", "/camera/image_raw")]


def test_not_composed_ends_on_the_topic_of_composed(started):
    nodes = started(composed="false", source="scene:")
    first = ("detections", "unclassified_detections")
    assert remappings_of(nodes["detector_node"]) == [first]
    assert remappings_of(nodes["classifier_node"]) == [
        first,
        ("classified_detections", "detections"),
    ]


def test_defaults_leave_parameters_to_the_user(started):
    assert given_parameters(started(image_topic="/images")["vision_node"]) == {}


def test_capture_arguments_go_to_the_node_that_captures(started):
    nodes = started(source="rtsp://camera/1", fps="15", cameras="front, rear", retry="false")
    assert given_parameters(nodes["vision_node"]) == {
        "source": "rtsp://camera/1",
        "fps": 15.0,
        "cameras": ("front", "rear"),
        "retry": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "0", "image_topic": "/images"}, "exclude each other"),
        ({"params_file": "/nowhere/mine.yaml"}, "no such file: /nowhere/mine.yaml"),
        ({"params_file": "~/no/mine.yaml"}, f"no such file: {Path.home()}/no/mine.yaml"),
    ],
    ids=["two-sources", "missing-file", "missing-file-at-home"],
)
def test_arguments_without_effect_are_errors(started, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        started(**arguments)


def test_rviz_shows_the_drawn_images(started):
    nodes = started(source="scene:", namespace="/robot", rviz="true")
    assert remappings_of(nodes["rviz2"]) == [("/detections/image", "/robot/detections/image")]


def test_error_without_camera_says_what_to_pass(started, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(RuntimeError, match=r"no camera .* pass source:=scene:"):
        started()


def test_default_camera_has_the_lowest_number(started, monkeypatch):
    devices = ["video10", "video2", "video3", "video2-copy"]
    monkeypatch.setattr(Path, "glob", lambda *_: (Path("/dev") / name for name in devices))
    assert given_parameters(started()["vision_node"])["source"] == "/dev/video2"


def test_own_file_of_parameters_replaces_the_default_camera(started, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("{}")
    assert given_parameters(started(params_file=str(file))["vision_node"]) == {}


@pytest.mark.parametrize(
    ("text", "camera_is_started"),
    [
        ("/**/camera_node:\n  ros__parameters:\n    source: /dev/video4\n", True),
        ("/**/camera_node:\n  ros__parameters:\n    source: ''\n", False),
        ("/**/vision_node:\n  ros__parameters:\n    source: '0'\n", False),
        ("- no parameters", False),
        ("{", False),
    ],
)
def test_camera_node_starts_if_the_file_has_a_source_for_it(
    started, tmp_path, text, camera_is_started
):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    nodes = started(params_file=str(file), composed="false")
    assert ("camera_node" in nodes) == camera_is_started
    assert "camera_node" not in started(
        params_file=str(file), composed="false", image_topic="/images"
    )


def test_error_names_the_argument_that_is_not_a_number(started):
    with pytest.raises(
        RuntimeError, match=r"score_threshold must be a number.*score_threshold:=high"
    ):
        started(source="scene:", score_threshold="high")


def test_wrong_choice_is_an_error_before_anything_starts(launch_file, caplog):
    service = LaunchService(argv=[])
    service.context.launch_configurations["composed"] = "perhaps"
    service.include_launch_description(launch_file.generate_launch_description())
    assert service.run() == 1
    assert "composed" in caplog.text
