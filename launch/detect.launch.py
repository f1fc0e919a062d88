"""Objects in a camera's images, in one process or in three.

ros2 launch vision detect.launch.py source:=scene:                   the built-in scene, anywhere
ros2 launch vision detect.launch.py                                  this machine's first camera
ros2 launch vision detect.launch.py image_topic:=/camera/image_raw   somebody else's images
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

    Where `convert` is given it makes the parameter of the same name of the `nodes` that have it;
    left empty, the parameter is as `params_file` says.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] | None = None
    convert: Callable[[str], object] | None = None
    nodes: tuple[str, ...] = ()


def truth(text: str) -> bool:
    """What a choice of BOOLEAN means."""
    return text.lower() == "true"


INFERRING = ("vision_node", "detector_node", "classifier_node")
DETECTING = ("vision_node", "detector_node")
LISTENING = INFERRING
ALL = ("camera_node", *INFERRING)
AS_FILE = "; empty: as params_file says"

ARGUMENTS = (
    Argument(
        "source",
        "",
        "where images come from: a camera number, /dev/videoN, a file, a folder, rtsp://, http://, "
        "zmq+tcp:// or scene: (built in); empty: image_topic, or else this machine's first camera",
    ),
    Argument("image_topic", "", "the topic of the images where no source is given"),
    Argument("composed", "true", "one process; false: camera, detector, classifier apart", BOOLEAN),
    Argument(
        "detector",
        "",
        "the detector: a registered name or an ONNX file" + AS_FILE,
        convert=str,
        nodes=DETECTING,
    ),
    Argument(
        "classifier",
        "",
        "the classifier: a registered name, an ONNX file, or none" + AS_FILE,
        convert=str,
        nodes=("vision_node", "classifier_node"),
    ),
    Argument(
        "score_threshold",
        "",
        "the lowest score of an object, 0 to 1" + AS_FILE,
        convert=float,
        nodes=DETECTING,
    ),
    Argument(
        "nms_threshold",
        "",
        "the overlap from which the weaker of two boxes goes, 0 to 1" + AS_FILE,
        convert=float,
        nodes=DETECTING,
    ),
    Argument(
        "threads",
        "",
        "the cores that a node may use, 0 for all" + AS_FILE,
        convert=int,
        nodes=INFERRING,
    ),
    Argument(
        "image_transport",
        "",
        "raw or compressed images" + AS_FILE,
        ("", "raw", "compressed"),
        str,
        LISTENING,
    ),
    Argument(
        "reliability",
        "",
        "of the image subscription; auto takes the publisher's" + AS_FILE,
        ("", "auto", "reliable", "best_effort"),
        str,
        LISTENING,
    ),
    Argument("namespace", "", "the namespace of all nodes and topics"),
    Argument("params_file", str(PARAMS_FILE), "a YAML file of parameters, like this one"),
    Argument("use_sim_time", "", "take the time from /clock" + AS_FILE, ("", *BOOLEAN), truth, ALL),
    Argument("log_level", "info", "debug, info, warn, error or fatal"),
    Argument(
        "autostart",
        "",
        "configure and activate by themselves" + AS_FILE,
        ("", *BOOLEAN),
        truth,
        ALL,
    ),
    Argument("respawn", "false", "start a node again that has ended", BOOLEAN),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, and what is to be started once their values are known."""
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
    """The nodes that the arguments ask for."""
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
    """The source to open, or nothing where images come from a topic or a file says it all."""
    is_told = given["image_topic"] or given["params_file"] != str(PARAMS_FILE)
    if given["source"] or is_told:
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
    """Whether the file of parameters tells the camera node what to capture."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        sections = [content[name] for name in content if name.rpartition("/")[2] == "camera_node"]
        return any(section["ros__parameters"].get("source") for section in sections)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        return False  # the nodes say what is wrong with it


def node(executable: str, given: dict[str, str], source: str = "") -> Node:
    """One of our nodes, with the parameters and remappings that it takes."""
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
    """The value of the type that the node expects: a name like 0 stays a text."""
    try:
        value = convert(text)
    except ValueError:
        kind = "a whole number" if convert is int else "a number"
        raise RuntimeError(f"{name} must be {kind}, but got {name}:={text}") from None
    return ParameterValue(value, value_type=str) if convert is str else value
