"""The states of a node: the effect of each transition, and of errors."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from nodes.images.image_messages import image_message
from nodes.messages.headers import header_message, stamp_ns

BLANK = np.zeros((120, 160, 3), np.uint8)
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN


def threads_of(process):
    return psutil.Process(process.pid).num_threads()


def test_every_transition_has_its_effect(start_node, observer, change, state, wait_until):
    process = start_node("detector_node", {"autostart": False})
    assert state("detector_node") == "unconfigured"
    assert observer.node.count_publishers(f"{observer.node.get_namespace()}/detections") == 0

    assert change("detector_node", CONFIGURE)
    assert state("detector_node") == "inactive"
    process.wait_for_log("sha256")
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    images = observer.publisher(Image, "image_raw", heard_by=0)

    def answers():
        images.publish(image_message(BLANK, header_message(time.time_ns(), "camera")))
        time.sleep(0.1)
        return results.messages

    threads = []  # those of OpenCV remain after its first use
    for _ in range(3):  # models are kept, so it can be activated again
        assert change("detector_node", ACTIVATE)
        assert state("detector_node") == "active"
        results.clear()
        wait_until(answers, "an answer")
        assert change("detector_node", DEACTIVATE)
        assert state("detector_node") == "inactive"
        wait_until(lambda: images.get_subscription_count() == 0, "the end of the subscription")
        since_ns = time.time_ns()
        assert not any(stamp_ns(result.header) >= since_ns for result in answers())
        threads.append(threads_of(process))
    # The last threads may still be ending.
    wait_until(lambda: threads_of(process) <= threads[0], "as few threads as the first time")

    assert change("detector_node", CLEANUP)
    assert state("detector_node") == "unconfigured"
    topic = f"{observer.node.get_namespace()}/detections"
    wait_until(lambda: observer.node.count_publishers(topic) == 0, "the end of the topics")
    assert change("detector_node", CONFIGURE), "it can be configured again"
    assert change("detector_node", CLEANUP)
    assert change("detector_node", SHUTDOWN)
    assert state("detector_node") == "finalized"
    assert process.stop() == 0


def broken_model(folder: Path) -> Path:
    path = folder / "broken.onnx"
    path.write_bytes(b"not a model")
    return path


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda folder: folder / "nowhere.onnx", "no such file"),
        (broken_model, "not a usable ONNX model"),
        (lambda folder: "mobilenetv2-int8", "expected a model that can detect"),
        (lambda folder: "yolov4-tiny-int9", "did you mean yolov4-tiny-int8"),
        (lambda folder: "none", "expected a model"),
    ],
    ids=["missing", "damaged", "of another task", "misspelt", "none"],
)
def test_unusable_model_leaves_the_node_unconfigured_with_a_reason(
    start_node, state, tmp_path, model, reason
):
    process = start_node("detector_node", {"detector": str(model(tmp_path))})
    line = process.wait_for_log("cannot configure")
    assert reason in line
    assert "Traceback" not in process.log
    assert state("detector_node") == "unconfigured"
    assert process.stop() == 0


def test_source_that_cannot_be_opened_leaves_the_node_inactive(start_node, state, wait_until):
    process = start_node("vision_node", {"source": "/nowhere.mp4", "classifier": "none"})
    process.wait_for_log("nowhere.mp4.*no such file")
    wait_until(lambda: state("vision_node") == "inactive", "the inactive state")
    assert "Traceback" not in process.log
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"score_threshold": 1.5}, "score_threshold.*out of range"),
        ({"max_rate": 10}, "max_rate must be a number with a point, such as 1.0: .*type"),
        ({"reliability": "perhaps"}, "must be one of auto, reliable, best_effort"),
        ({"cameras": ["front", "front"]}, "cameras must be different names"),
        ({"cameras": []}, "cameras must be different names"),
        ({"use_sim_time": 5}, "use_sim_time.*expecting type 'BOOL'"),
    ],
    ids=[
        "out of range",
        "of another type",
        "not a choice",
        "same name twice",
        "no camera",
        "of rclpy",
    ],
)
def test_invalid_parameter_ends_the_process_with_one_line(start_node, parameters, reason):
    process = start_node("vision_node", parameters)
    process.wait_for_log(reason)
    assert process.wait() == 2
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("text", "shown"), [("scene:", "active: captures scene:"), ("9", "camera 9|/dev/video9")]
)
def test_source_needs_no_quotes_on_the_command_line(start_node, text, shown):
    process = start_node("camera_node", {}, "-p", f"source:={text}")
    process.wait_for_log(shown)
    assert "Traceback" not in process.log


def test_source_may_be_a_number_in_a_file_of_parameters(start_node):
    process = start_node("camera_node", {"source": 9})
    process.wait_for_log("camera 9|/dev/video9")


def test_misspelt_parameter_is_named_and_those_of_other_nodes_are_not(start_node):
    process = start_node("camera_node", {"source": "scene:", "max_rat": 5.0, "top": 3})
    process.wait_for_log("parameter max_rat is not known and has no effect; did you mean max_rate?")
    process.wait_for_log("active: captures scene:; publishes .*/image_raw")
    process.wait_for_log("first image of .*: 1280x720")
    assert process.count("parameter top") == 0


def test_models_can_be_changed_while_inactive(start_node, observer, change, state):
    def set_parameter(name, text):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        return observer.call(SetParameters, "detector_node/set_parameters", request).results[0]

    process = start_node("detector_node")
    process.wait_for_log(
        "active: subscribes to .*/image_raw .best_effort.; publishes .*/detections"
    )
    answer = set_parameter("detector", "yolov4-tiny-int8")
    assert not answer.successful
    assert "deactivate first" in answer.reason
    assert change("detector_node", DEACTIVATE)
    assert not set_parameter("detector", "nowhere").successful
    assert set_parameter("detector", "yolov4-tiny-int8").successful
    assert change("detector_node", ACTIVATE)
    assert state("detector_node") == "active"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-p", "frame_id:=left:"), r"override rule.*needs its own quotes: -p"),
        (("-r", "image_raw:=front", "left"), r"unknown \['left'\]$"),
    ],
    ids=["no YAML", "unknown"],
)
def test_invalid_arguments_end_the_process_with_one_line(start_node, arguments, reason):
    process = start_node("camera_node", {}, *arguments)
    process.wait_for_log(f"--ros-args cannot be read: .*{reason}")
    assert process.wait() == 2
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"cameras": ["front left"]}, "topic front left/detections cannot be created"),
        ({"qos_overrides./T.publisher.depth": -1}, "topic detections cannot be created"),
        ({"qos_overrides./T/image.publisher.history": "perhaps"}, "history.*perhaps"),
    ],
    ids=["name with a space", "invalid depth", "invalid history of a later topic"],
)
def test_invalid_topic_leaves_the_node_unconfigured_with_a_reason(
    start_node, state, namespace, parameters, reason
):
    topic = f"{namespace}/detections".removeprefix("/")
    given = {name.replace("T", topic): value for name, value in parameters.items()}
    process = start_node("vision_node", {**given, "classifier": "none"})
    assert re.search(reason, process.wait_for_log("cannot configure"))
    assert "Traceback" not in process.log
    assert state("vision_node") == "unconfigured"
    assert process.stop() == 0


def test_transition_that_the_state_does_not_allow_is_rejected(start_node, change, state):
    process = start_node("camera_node", {"autostart": False})
    assert not change("camera_node", DEACTIVATE)
    assert not change("camera_node", 99)
    assert state("camera_node") == "unconfigured"
    assert "Traceback" not in process.log
    assert process.stop() == 0


@pytest.mark.parametrize("delay_s", [0.4, 1.0], ids=lambda delay: f"after {delay} s")
def test_signal_during_the_start_leaves_no_traceback(start_process, delay_s):
    """The executable handles signals before it loads large modules."""
    code = "from nodes.executables import vision_node; vision_node()"
    process = start_process(sys.executable, "-c", code)
    time.sleep(delay_s)
    assert process.stop(signal.SIGTERM) in {0, -signal.SIGTERM}  # the latter before Python runs
    assert "Traceback" not in process.log
