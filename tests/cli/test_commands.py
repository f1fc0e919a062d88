"""`vision demo`, `vision doctor`, and tables."""

from __future__ import annotations

import json

import cv2
import pytest

from pipeline.cli.console import show_table
from pipeline.cli.reports import diagnostics

CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
CUPS = {"espresso", "cup", "coffee mug"}


def names_in(text: str) -> set[str]:
    """The classes in a cell such as `tabby 0.42, tiger cat 0.20`."""
    return {part.strip().rpartition(" ")[0] for part in text.split(",")}


def test_demo_finds_the_person_the_cat_and_the_cup(start, tmp_path):
    process = start("demo", "--jsonl", "found.jsonl")
    out, errors = (text.decode() for text in process.communicate(timeout=300))
    assert process.returncode == 0, errors
    rows = {}
    for line in out.splitlines()[1:]:
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        if len(cells) == 4:
            rows[cells[0]] = (int(cells[1]), float(cells[2]), names_in(cells[3]))
    assert {"person", "cat", "cup"} <= set(rows)
    assert rows["cat"][2] & CATS
    assert rows["cup"][2] & CUPS
    assert "300 frames" in errors

    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert len(lines) == 300
    for label, (frames, best, _) in rows.items():
        scores = [
            [thing["score"] for thing in line["objects"] if thing["label"] == label]
            for line in lines
        ]
        assert frames == sum(map(bool, scores))
        assert best == pytest.approx(max(max(some, default=0) for some in scores), abs=0.006)

    image = tmp_path / "vision-demo.jpg"
    assert f"annotated image: {image}" in out
    assert cv2.imread(str(image)) is not None


def test_models_are_listed_with_task_size_and_classes(vision):
    outcome = vision("models", "list")
    assert outcome.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines()}
    assert rows["yolov4-tiny-int8"][:3] == ["detect", "416x416", "80"]
    assert rows["mobilenetv2-int8"][:3] == ["classify", "224x224", "1000"]


@pytest.fixture
def damaged_model(tmp_path, monkeypatch):
    (tmp_path / "mine.onnx").write_bytes(b"not a model")
    monkeypatch.setenv("VISION_MODELS", str(tmp_path))


def test_a_damaged_model_is_listed_as_unusable(vision, damaged_model):
    outcome = vision("models", "list")
    assert outcome.code == 0
    assert "unusable" in next(line for line in outcome.out.splitlines() if "mine" in line)


def test_doctor_prints_findings_and_advice(vision, damaged_model):
    outcome = vision("doctor")
    assert outcome.code == 0
    for subject in ("processor", "memory", "packages", "ONNX Runtime", "OpenCV", "ROS 2"):
        assert subject in outcome.out
    assert "model mine: replace the file" in outcome.out
    assert "window: --show needs a display" in outcome.out


def test_doctor_prints_json(vision):
    findings = json.loads(vision("doctor", "--json").out)
    states = {finding["subject"]: finding["state"] for finding in findings}
    assert states["model yolov4-tiny-int8"] == states["model mobilenetv2-int8"] == "ok"
    assert all(finding["advice"] for finding in findings if finding["state"] == "warn")


@pytest.mark.parametrize(("machine", "lines"), [("aarch64", 1), ("x86_64", 0)])
def test_doctor_says_on_arm_what_was_checked_there(monkeypatch, machine, lines):
    monkeypatch.setattr("platform.machine", lambda: machine)
    findings = list(diagnostics.arm())
    assert len(findings) == lines
    assert all("under emulation, speed not measured" in finding.found for finding in findings)


def test_a_table_does_not_interpret_markup_in_labels(capsys):
    show_table(["label"], [[":smile: [bold]"]])
    assert ":smile: [bold]" in capsys.readouterr().out
