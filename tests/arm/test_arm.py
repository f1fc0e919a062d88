"""vision on Arm, under emulation: its own tests, the demo, the models, and what passes to x86."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from .conftest import PEER, ROOT, WAIT_S

SAMPLES = ROOT / "models" / "samples"
PROCESSORS = {
    "max": {"asimddp", "i8mm"},
    "cortex-a76": {"asimddp"},  # as in a Raspberry Pi 5 and a Jetson Orin
    "cortex-a72": set(),  # as in a Raspberry Pi 4
}
"""QEMU's processors, and their instructions that help int8 models."""
LOGITS = 1.0
"""The most by which logits of the int8 classifier differ, whose range is about 20."""

OWN_TESTS = {
    "decode and NMS": ("tests/inference/heads/test_darknet.py", "-k", "0.25"),
    "shared memory": ("tests/transport/shm/test_ring.py",),
}


@pytest.mark.parametrize("tests", OWN_TESTS.values(), ids=OWN_TESTS)
def test_comparisons_with_the_reference_pass(arm, tests):
    said = arm.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *tests)
    assert re.search(r"\d+ passed", said), said
    assert "failed" not in said


def test_the_demo_finds_the_same_objects(arm, here, tmp_path):
    found = {}
    for name, python in (("here", here), ("arm", arm)):
        image, lines = tmp_path / f"{name}.jpg", tmp_path / f"{name}.jsonl"
        arguments = ("demo", "--max-frames", 3, "--output", image, "--jsonl", lines)
        python.run("-m", "pipeline.cli", *arguments, folder=ROOT)
        assert cv2.imread(str(image)) is not None
        results = [json.loads(line) for line in lines.read_text().splitlines()]
        found[name] = [[each["label"] for each in result["objects"]] for result in results]
    assert len(found["arm"]) == 3
    assert found["arm"] == found["here"]
    assert any(found["arm"])


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_models_give_what_they_give_on_x86(arm, here, tmp_path, processor):
    photo = cv2.imread(str(SAMPLES / "cat.jpg"))
    np.save(tmp_path / "pixels.npy", cv2.resize(photo, (416, 416)))
    outputs = {}
    for name, python in (("here", here), ("arm", arm)):
        files = tmp_path / "pixels.npy", tmp_path / f"{name}.npz"
        said = json.loads(python.run(PEER, "infer", *files, QEMU_CPU=processor))
        outputs[name] = list(np.load(files[1]).values())
    assert set(said["features"]) & PROCESSORS["max"] == PROCESSORS[processor]
    *heads, logits = outputs["arm"]
    *expected_heads, expected_logits = outputs["here"]
    assert [head.shape for head in heads] == [(1, 255, 13, 13), (1, 255, 26, 26)]
    for head, expected in zip(heads, expected_heads, strict=True):
        np.testing.assert_array_equal(head, expected)
    assert logits.argmax() == expected_logits.argmax()
    np.testing.assert_allclose(logits, expected_logits, atol=LOGITS)


def test_resizing_reads_nothing_beyond_an_image(arm):
    said = json.loads(arm.run(PEER, "shrink", 415, 417, 418, 420, 480))
    assert said["means"] == [200] * 5


@pytest.mark.parametrize("kind", ["raw", "jpeg", "shm"])
@pytest.mark.parametrize(("sender", "receiver"), [("here", "arm"), ("arm", "here")])
def test_frames_and_results_pass_unchanged(arm, here, tmp_path, sender, receiver, kind):
    """In shared memory (`shm`) one side writes the ring that the other one reads."""
    sides = {"arm": arm, "here": here}
    send, receive = sides[sender], sides[receiver]
    address = f"zmq+ipc://{tmp_path}/socket"
    publisher = send.start(PEER, "publish", address, kind)
    try:
        said = json.loads(receive.run(PEER, "receive", address, kind, 30))
        counts = json.loads(publisher.communicate(timeout=WAIT_S)[0])["counts"]
    finally:
        publisher.kill()
        publisher.wait()
    assert said["wrong"] == []
    assert said["seen"]["Frame"] >= 30
    assert said["seen"]["Result"] >= 30
    assert said["payloads"] == {kind: said["seen"]["Frame"], "result": said["seen"]["Result"]}
    assert counts["frame/front"]["sent"] >= 30
