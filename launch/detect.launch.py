"""Starts detection and classification, in one process or in three.

ros2 launch vision detect.launch.py                                  this machine's first camera
ros2 launch vision detect.launch.py source:=scene:                   the built-in scene
ros2 launch vision detect.launch.py image_topic:=/camera/image_raw   images of another node
"""

from __future__ import annotations

from collections.abc import Callable
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
BOOLEAN = ("true", "false", "True", "False")


class Argument(NamedTuple):
    """One argument of this launch file.

    With `convert`, the value sets the parameter of the same name of the `nodes`; an empty value
    leaves the parameter to `params_file`.
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


DETECTING = ("vision_node", "detector_node")
INFERRING = (*DETECTING, "classifier_node")  # these also subscribe to images
ALL = ("camera_node", *INFERRING)
AS_FILE = "; empty: the value of params_file"

ARGUMENTS = (
    Argument(
        "source",
        "",
        "source of the images: a camera number, /dev/videoN, a file, a folder, rtsp://, http://, "
        "zmq+tcp:// or scene: (built in); empty: image_topic, or this machine's first camera",
    ),
    Argument("image_topic", "", "topic of the images if no source is given"),
    Argument(
        "composed",
        "true",
        "true: one process; false: a process each for camera, detector and classifier",
        BOOLEAN,
    ),
    Argument(
        "detector",
        "",
        "detection model: a registered name or an ONNX file" + AS_FILE,
        convert=str,
        nodes=DETECTING,
    ),
    Argument(
        "classifier",
        "",
        "classification model: a registered name, an ONNX file, or none" + AS_FILE,
        convert=str,
        nodes=("vision_node", "classifier_node"),
    ),
    Argument(
        "score_threshold",
        "",
        "lowest score of a detection, 0 to 1" + AS_FILE,
        convert=float,
        nodes=DETECTING,
    ),
    Argument(
        "nms_threshold",
        "",
        "overlap above which two boxes of one class are one object, 0 to 1" + AS_FILE,
        convert=float,
        nodes=DETECTING,
    ),
    Argument(
        "threads",
        "",
        "number of cores for inference per node, 0 for all cores" + AS_FILE,
        convert=int,
        nodes=INFERRING,
    ),
    Argument(
        "image_transport",
        "",
        "raw or compressed images" + AS_FILE,
        ("", "raw", "compressed"),
        str,
        INFERRING,
    ),
    Argument(
        "reliability",
        "",
        "reliability of the image subscription; auto takes the publisher's" + AS_FILE,
        ("", "auto", "reliable", "best_effort"),
        str,
        INFERRING,
    ),
    Argument("namespace", "", "namespace of all nodes and topics"),
    Argument("params_file", str(PARAMS_FILE), "YAML file of parameters"),
    Argument("use_sim_time", "", "take the time from /clock" + AS_FILE, ("", *BOOLEAN), truth, ALL),
    Argument("log_level", "info", "debug, info, warn, error or fatal"),
    Argument(
        "autostart",
        "",
        "configure and activate the nodes at their start" + AS_FILE,
        ("", *BOOLEAN),
        truth,
        ALL,
    ),
    Argument("respawn", "false", "restart a node after it has ended", BOOLEAN),
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
    source = chosen_source(given)
    if truth(given["composed"]):
        return [node("vision_node", given, source=source)]
    nodes = [node("detector_node", given)]
    if given["classifier"] != "none":
        nodes.append(node("classifier_node", given))
    if source or (not given["image_topic"] and names_a_source(Path(given["params_file"]))):
        nodes.insert(0, node("camera_node", given, source=source))
    return nodes


def chosen_source(given: dict[str, str]) -> str:
    """The source to open; empty if a topic or the user's own file of parameters selects it."""
    is_selected = given["image_topic"] or given["params_file"] != str(PARAMS_FILE)
    if given["source"] or is_selected:
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


def names_a_source(file: Path) -> bool:
    """Whether a file of parameters sets the source of the camera node."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        sections = [content[name] for name in content if name.rpartition("/")[2] == "camera_node"]
        return any(section["ros__parameters"].get("source") for section in sections)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        return False  # the nodes report what is wrong with it


def node(executable: str, given: dict[str, str], source: str = "") -> Node:
    """One node with its parameters and remappings."""
    parameters = {
        argument.name: parameter_value(argument.name, argument.convert, given[argument.name])
        for argument in ARGUMENTS
        if argument.convert is not None and executable in argument.nodes and given[argument.name]
    }
    if source:
        parameters["source"] = ParameterValue(source, value_type=str)
    remappings = []
    if given["image_topic"] and not source:
        remappings.append(("image_raw", given["image_topic"]))
    return Node(
        package="vision",
        executable=executable,
        name=executable,
        namespace=given["namespace"],
        parameters=[given["params_file"], *([parameters] if parameters else [])],
        remappings=remappings,
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
        respawn=truth(given["respawn"]),
        respawn_delay=RESPAWN_DELAY_S,
    )


def parameter_value(name: str, convert: Callable[[str], object], text: str) -> object:
    """A value of the type that the node expects: the source 0 stays a string."""
    try:
        value = convert(text)
    except ValueError:
        kind = "a whole number" if convert is int else "a number"
        raise RuntimeError(f"{name} must be {kind}, but got {name}:={text}") from None
    return ParameterValue(value, value_type=str) if convert is str else value
