"""Starts detection and classification, in one process or in three.

ros2 launch vision detect.launch.py                                  this machine's first camera
ros2 launch vision detect.launch.py source:=scene:                   the built-in scene
ros2 launch vision detect.launch.py image_topic:=/camera/image_raw   images of another node
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PARAMS_FILE = Path(__file__).absolute().parents[1] / "config" / "vision.yaml"
RESPAWN_DELAY_S = 2.0
UNCLASSIFIED = "unclassified_detections"
BOOLEAN = ("true", "false", "True", "False")


class Argument(NamedTuple):
    """One argument of this launch file.

    With `convert`, the value sets the parameter of the same name of the `nodes`; an empty value
    leaves the parameter to `params_file` or to its default.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] | None = None
    convert: Callable[[str], object] | None = None
    nodes: tuple[str, ...] = ()


def truth(text: str) -> bool:
    """The value of a choice of BOOLEAN."""
    return text.lower() == "true"


def names(text: str) -> list[str]:
    """The names in a text such as `front,rear`."""
    return [name.strip() for name in text.strip("[]").split(",")]


def of_parameter(
    name: str,
    convert: Callable[[str], object],
    nodes: tuple[str, ...],
    choices: tuple[str, ...] | None = None,
) -> Argument:
    """The argument that sets a parameter, described as in config/vision.yaml."""
    lines = PARAMS_FILE.read_text(encoding="utf-8").splitlines()
    end = start = next(i for i, line in enumerate(lines) if line.startswith(f"    {name}: "))
    while lines[start - 1].startswith("    # "):
        start -= 1
    comment = " ".join(line.removeprefix("    # ") for line in lines[start:end])
    return Argument(name, "", f"{comment}; empty: the default", choices, convert, nodes)


DETECTING = ("vision_node", "detector_node")
CAPTURING = ("vision_node", "camera_node")
INFERRING = (*DETECTING, "classifier_node")  # these also subscribe to images
ALL = ("camera_node", *INFERRING)

ARGUMENTS = (
    Argument(
        "source",
        "",
        "camera number, /dev/videoN, file, folder, rtsp://, http://, zmq+tcp://, or scene: for the "
        "built-in scene; empty: image_topic, or this machine's first camera",
    ),
    Argument("image_topic", "", "topic of the images if no source is given"),
    Argument(
        "composed",
        "true",
        "true: one process; false: a process each for camera, detector and classifier",
        BOOLEAN,
    ),
    of_parameter("width", int, CAPTURING),
    of_parameter("height", int, CAPTURING),
    of_parameter("fps", float, CAPTURING),
    of_parameter("frame_id", str, CAPTURING),
    of_parameter("camera_info_url", str, CAPTURING),
    of_parameter("retry", truth, CAPTURING, ("", *BOOLEAN)),
    of_parameter("loop", truth, CAPTURING, ("", *BOOLEAN)),
    of_parameter("max_rate", float, ("vision_node", "camera_node", "detector_node")),
    of_parameter("cameras", names, ("vision_node",)),
    of_parameter("detector", str, DETECTING),
    of_parameter("classifier", str, ("vision_node", "classifier_node")),
    of_parameter("score_threshold", float, DETECTING),
    of_parameter("nms_threshold", float, DETECTING),
    of_parameter("threads", int, INFERRING),
    of_parameter("image_transport", str, INFERRING, ("", "raw", "compressed")),
    of_parameter("reliability", str, INFERRING, ("", "auto", "reliable", "best_effort")),
    Argument("namespace", "", "namespace of all nodes and topics"),
    Argument(
        "params_file",
        "",
        f"YAML file of parameters, such as a copy of {PARAMS_FILE}; empty: the defaults",
    ),
    Argument(
        "use_sim_time",
        "",
        "take the time from /clock; empty: the default",
        ("", *BOOLEAN),
        truth,
        ALL,
    ),
    Argument("log_level", "info", "debug, info, warn, error or fatal"),
    of_parameter("autostart", truth, ALL, ("", *BOOLEAN)),
    Argument("respawn", "false", "restart a node after it has ended", BOOLEAN),
    Argument("rviz", "false", "show detections/image in RViz", BOOLEAN),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, and the action that starts the nodes."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            **({} if argument.choices is None else {"choices": list(argument.choices)}),
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[Node]:
    """The nodes that the arguments select."""
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    check(given)
    source = chosen_source(given)
    viewer = [rviz(given)] if truth(given["rviz"]) else []
    if truth(given["composed"]):
        return [node("vision_node", given, source=source), *viewer]
    if given["classifier"] == "none":
        nodes = [node("detector_node", given)]
    else:  # the last of the two publishes the topic that vision_node would
        unclassified = ("detections", UNCLASSIFIED)
        classified = ("classified_detections", "detections")
        nodes = [
            node("detector_node", given, remappings=[unclassified]),
            node("classifier_node", given, remappings=[unclassified, classified]),
        ]
    if source or (not given["image_topic"] and names_a_source(given["params_file"])):
        nodes.insert(0, node("camera_node", given, source=source))
    return [*nodes, *viewer]


def check(given: dict[str, str]) -> None:
    """Raise `RuntimeError` for arguments that contradict each other or name nothing."""
    if given["source"] and given["image_topic"]:
        raise RuntimeError(
            f"source:={given['source']} and image_topic:={given['image_topic']} exclude each "
            f"other: images either come from a source, or from another node"
        )
    file = given["params_file"] = os.path.expanduser(given["params_file"])
    if file and not os.path.isfile(file):
        raise RuntimeError(f"params_file: no such file: {file}")


def chosen_source(given: dict[str, str]) -> str:
    """The source to open; empty if a topic or the user's own file of parameters selects it."""
    if given["source"] or given["image_topic"] or given["params_file"]:
        return given["source"]
    numbers = [path.name.removeprefix("video") for path in Path("/dev").glob("video[0-9]*")]
    cameras = [int(number) for number in numbers if number.isdecimal()]
    if not cameras:
        raise RuntimeError(
            "this machine has no camera (/dev/video*): pass source:=scene: for the built-in scene, "
            "source:=FILE, source:=rtsp://..., or image_topic:=/camera/image_raw for images that "
            "another node publishes"
        )
    return f"/dev/video{min(cameras)}"


def names_a_source(file: str) -> bool:
    """Whether a file of parameters sets the source of the camera node."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        sections = [content[name] for name in content if name.rpartition("/")[2] == "camera_node"]
        return any(section["ros__parameters"].get("source") for section in sections)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        return False  # the nodes report what is wrong with it


def node(
    executable: str,
    given: dict[str, str],
    source: str = "",
    remappings: Sequence[tuple[str, str]] = (),
) -> Node:
    """One node with its parameters and remappings."""
    parameters = {
        argument.name: parameter_value(argument.name, argument.convert, given[argument.name])
        for argument in ARGUMENTS
        if argument.convert is not None and executable in argument.nodes and given[argument.name]
    }
    if source:
        parameters["source"] = ParameterValue(source, value_type=str)
    if given["image_topic"]:
        remappings = [("image_raw", given["image_topic"]), *remappings]
    return Node(
        package="vision",
        executable=executable,
        name=executable,
        namespace=given["namespace"],
        parameters=[part for part in (given["params_file"], parameters) if part],
        remappings=remappings,
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
        respawn=truth(given["respawn"]),
        respawn_delay=RESPAWN_DELAY_S,
    )


def rviz(given: dict[str, str]) -> Node:
    """RViz with the drawn images of the first camera."""
    camera = names(given["cameras"])[0]
    prefix = "/".join(part for part in (given["namespace"].strip("/"), camera) if part)
    topic = f"{prefix}/detections/image"
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(PARAMS_FILE.with_name("vision.rviz"))],
        remappings=[("/detections/image", f"/{topic.lstrip('/')}")],
        output="screen",
    )


def parameter_value(name: str, convert: Callable[[str], object], text: str) -> object:
    """A value of the type that the node expects: the source 0 stays a string."""
    try:
        value = convert(text)
    except ValueError:
        kind = "a whole number" if convert is int else "a number"
        raise RuntimeError(f"{name} must be {kind}, but got {name}:={text}") from None
    return ParameterValue(value, value_type=str) if convert is str else value
