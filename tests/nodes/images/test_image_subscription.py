"""Image subscriptions: reliability, transport, and the warnings if no images come."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from nodes.images.image_messages import compressed_message, image_message
from nodes.messages.headers import header_message
from nodes.middleware import PROFILES

BLANK = np.zeros((120, 160, 3), np.uint8)
PERIOD_S = 0.1


def send_until(publisher, make, is_done, timeout_s=60.0):
    """Publish repeatedly, as a camera does, until `is_done`."""
    deadline = time.monotonic() + timeout_s
    count = 0
    while not is_done():
        assert time.monotonic() < deadline, f"no reaction to {count} messages"
        count += 1
        publisher.publish(make(header_message(time.time_ns(), f"camera{count}")))
        time.sleep(PERIOD_S)


def blank_image(header):
    return image_message(BLANK, header)


def blank_jpeg(header):
    return compressed_message(BLANK, header)


def test_node_follows_reliable_and_best_effort_publishers(start_node, observer):
    start_node("detector_node")
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    for reliable in (True, False, True):
        results.clear()
        publisher = observer.publisher(Image, "image_raw", reliable=reliable)
        send_until(publisher, blank_image, lambda: len(results.messages) >= 3)
        observer.withdraw(publisher)


def test_compressed_transport_subscribes_below_the_remapped_topic(start_node, observer):
    start_node("detector_node", {"image_transport": "compressed"}, "-r", "image_raw:=left/image")
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    publisher = observer.publisher(CompressedImage, "left/image/compressed")
    send_until(publisher, blank_jpeg, lambda: results.messages)


def test_warning_names_the_topic_and_topics_with_images(start_node, observer, namespace):
    other = observer.publisher(Image, "elsewhere/image", heard_by=0)
    process = start_node("detector_node", {"image_timeout": 1.0})
    # Topics of nodes that were just killed may still be known.
    line = process.wait_for_log(rf"published on (\S+, )*{other.topic_name}(, \S+)*: remap")
    assert f"no image on {namespace}/image_raw" in line
    assert "it has no publisher" in line
    assert f"{namespace}/detections/image" not in line


def test_warning_names_publishers_with_incompatible_qos(start_node, observer, namespace):
    observer.publisher(Image, "image_raw", reliable=False, heard_by=0)
    observer.publisher(Image, "other", heard_by=0)
    durability = f"qos_overrides.{namespace}/other.subscription.durability"
    process = start_node("detector_node", {"image_timeout": 1.0, "reliability": "reliable"})
    another = start_node(
        *("classifier_node", {"image_timeout": 1.0, durability: "transient_local"}),
        *("-r", "image_raw:=other"),
    )
    # The names of nodes are discovered a little later than their topics.
    line = process.wait_for_log("no image.*/observer.*is not compatible")
    assert "/observer (best_effort) is not compatible with this subscription (reliable)" in line
    assert "set the parameter reliability to auto" in line
    line = another.wait_for_log("no image.*is not compatible")
    assert "transient local subscription; see qos_overrides" in line


def test_warning_names_publishers_of_another_type(start_node, observer):
    observer.publisher(String, "image_raw", heard_by=0)
    process = start_node("detector_node", {"image_timeout": 1.0})
    process.wait_for_log("sends std_msgs/msg/String, expected sensor_msgs/msg/Image")


def test_warning_names_the_shared_memory_of_a_best_effort_publisher(start_node, observer):
    observer.publisher(Image, "image_raw", reliable=False, heard_by=0)
    process = start_node("detector_node", {"image_timeout": 1.0})
    line = process.wait_for_log("/observer .best_effort. sends nothing, or its images are larger")
    assert f"_DEFAULT_PROFILES_FILE={PROFILES}" in line
    assert PROFILES.is_absolute()


def test_warning_says_how_to_subscribe_to_compressed_images(start_node, observer, namespace):
    observer.publisher(CompressedImage, "image_raw/compressed", heard_by=0)
    process = start_node("detector_node", {"image_timeout": 1.0})
    process.wait_for_log(
        f"it has no publisher; {namespace}/image_raw/compressed has one: set the parameter "
        f"image_transport to compressed"
    )


def test_warning_is_repeated_only_if_the_reason_changes(
    start_node, observer, namespace, wait_until
):
    process = start_node("detector_node", {"image_timeout": 0.5})
    statuses = observer.subscribe(DiagnosticArray, "/diagnostics")
    process.wait_for_log("no image.*it has no publisher")
    observer.publisher(Image, "image_raw")
    process.wait_for_log("/observer .reliable. is compatible but sends nothing")
    statuses.clear()
    # The node checks and publishes diagnostics once a second.
    wait_until(lambda: len(statuses_of(statuses, namespace)) >= 3, "three more checks")
    warnings = [line for line in process.log.splitlines() if "no image" in line]
    reasons = [line.partition(" s: ")[2] for line in warnings]
    assert all(reason != following for reason, following in itertools.pairwise(reasons)), reasons


def statuses_of(inbox, namespace):
    """The statuses of the nodes of a namespace."""
    return [s for m in inbox.messages for s in m.status if s.name.startswith(f"{namespace[1:]}/")]


def test_parameters_override_qos(start_node, observer, namespace, wait_until):
    overrides = {
        f"qos_overrides.{namespace}/detections.publisher.reliability": "best_effort",
        f"qos_overrides.{namespace}/image_raw.subscription.depth": 3,
    }
    start_node("detector_node", overrides)

    def publishers(topic):
        infos = observer.node.get_publishers_info_by_topic
        return wait_until(lambda: infos(f"{namespace}/{topic}"), f"a publisher of {topic}")

    observer.subscribe(Detection2DArray, "detections", heard_from=1, reliable=False)
    (info,) = publishers("detections")
    assert info.qos_profile.reliability.name == "BEST_EFFORT"
    observer.subscribe(Image, "detections/image", heard_from=1)
    (info,) = publishers("detections/image")
    assert info.qos_profile.reliability.name == "RELIABLE", "only the named topic changes"


def test_ages_use_simulated_time(start_node, observer, namespace):
    """If the clock is stopped at 100 s, an image stamped 99.75 s is 250 ms old."""
    start_node("detector_node", {"use_sim_time": True})
    clock = observer.publisher(Clock, "/clock")
    inbox = observer.subscribe(DiagnosticArray, "/diagnostics")
    images = observer.publisher(Image, "image_raw")
    now = Clock()
    now.clock.sec = 100

    def make(header):
        clock.publish(now)
        return image_message(BLANK, header_message(99_750_000_000, "simulated"))

    def ages():
        values = [pair for status in statuses_of(inbox, namespace) for pair in status.values]
        return [float(pair.value) for pair in values if pair.key == "age p50 (ms)"]

    send_until(images, make, lambda: ages() and ages()[-1] == pytest.approx(250, abs=1))
