"""`vision choose`: the report, the plot, stored measurements and invalid options."""

from __future__ import annotations

import json
import os
import signal

import pytest

from pipeline.zoo import latency

pytest.importorskip("onnx")

SMALL = ("choose", "--only", "_96", "--threads", 1)  # four members


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vision" / "latency"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Measure very briefly; no test checks the times themselves."""
    monkeypatch.setattr(latency, "_CHUNK_S", 0.005)
    monkeypatch.setattr(latency, "_LOOK_S", 0.01)


@pytest.fixture
def one():
    return ("choose", "--only", "V1_0.25_128", "--threads", 1)


def rows(out):
    """The cells of the table by the name of the network, without the mark of the choice."""
    lines = [line.removeprefix("*").split() for line in out.splitlines()]
    names = ("mobilenet", "yolo")
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0].startswith(names)}


def test_the_most_accurate_within_the_budget_is_named_and_the_rest_is_reported(vision, tmp_path):
    report = tmp_path / "report.json"
    outcome = vision(*SMALL, "--int8", "--budget-ms", 1000, "--all", "--json", report)
    assert outcome.code == 0, outcome.err
    assert "most accurate within 1000 ms: mobilenet_v2_1.0_96, 60.3 %, " in outcome.out
    assert "has no trained weights that take 1000 ms or less; train" in outcome.out
    assert "*  mobilenet_v2_1.0_96" in outcome.out
    assert rows(outcome.out)["mobilenet_v2_0.5_96"][1:] == ["51.2", "75.8", "19", "1.96", "2.2"]
    written = json.loads(report.read_text())
    assert (written["task"], written["int8"], written["budget_ms"]) == ("classify", True, 1000)
    assert written["machine"]["threads"] == 1
    members = {member["name"]: member for member in written["members"]}
    assert len(members) == 4
    assert [name for name, member in members.items() if member["chosen"]] == ["mobilenet_v2_1.0_96"]
    assert members["mobilenet_v2_0.35_96"]["top1_percent"] == 45.5
    assert members["mobilenet_v2_0.35_96"]["accuracy_source"].startswith("tensorflow/models")
    times = [member["latency_ms"] for member in written["members"]]
    assert times == sorted(times)
    assert min(times) > 0


def test_the_source_of_trained_weights_is_printed(vision):
    out = vision("choose", "--only", "v3_small", "--threads", 1, "--budget-ms", 1000).out
    assert "most accurate within 1000 ms: mobilenet_v3_small_1.0_224, 67.5 %" in out
    assert "trained weights of the next best, mobilenet_v3_small_0.75_224, 65.4 %" in out
    assert "ms: vision models pull mobilenetv3-small-075" in out


def test_a_second_call_measures_only_with_fresh(vision, one, cache):
    first = vision(*one)
    assert "measuring (2)" in first.err
    (file,) = cache.iterdir()
    known = file.read_bytes()
    second = vision(*one)
    assert "measuring" not in second.err
    assert second.out == first.out
    assert file.read_bytes() == known
    assert "measuring (2)" in vision(*one, "--fresh").err


def test_detectors_are_chosen_by_input_size_for_each_class_count(vision):
    outcome = vision(
        "choose", "--task", "detect", "--sizes", "64", "--classes", "1,2", "--int8",
        "--threads", 1, "--budget-ms", 5000,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert rows(outcome.out)["yolov4_tiny_64_1"][1:3] == ["-", "-"]  # nothing is published
    assert "largest input for 1 class within 5000 ms: yolov4_tiny_64_1" in outcome.out
    assert "largest input for 2 classes within 5000 ms: yolov4_tiny_64_2" in outcome.out
    assert "accuracy: published" not in outcome.out


def test_help_shows_examples(vision):
    outcome = vision("choose", "--help")
    assert outcome.code == 0
    assert "vision choose --budget-ms 3 --int8" in " ".join(outcome.out.split())


def test_no_network_fits_a_tiny_budget(vision, one):
    outcome = vision(*one, "--budget-ms", 0.0001)
    assert outcome.code == 0
    assert "no network takes 0.0001 ms or less; the fastest is mobilenet_v1_0.25_128" in outcome.out


def test_plot_of_accuracy_over_latency(vision, one, tmp_path):
    pytest.importorskip("matplotlib")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "frontier.png"
    outcome = vision(*one, "--budget-ms", 100, "--plot", path)
    assert outcome.code == 0, outcome.err
    image = cv2.imread(str(path))
    assert image.shape[0] > 400
    assert image.std() > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget-ms", "0"), "--budget-ms: expected milliseconds above 0, got 0.0"),
        (("--budget-ms", "nan"), "--budget-ms: expected milliseconds above 0, got nan"),
        (("--task", "segment"), "--task: expected classify or detect, got 'segment'"),
        (("--classes", "two"), "--classes: expected whole numbers separated by commas, got 'two'"),
        (("--classes", "0"), "classes: expected 1 to 100000, got 0"),
        (("--classes", "2,3"), "--classes: expected one number for classifiers, got 2"),
        (("--sizes", "96"), "--sizes: applies to detectors"),
        (("--task", "detect", "--sizes", "100"), "multiple of 32 from 32 to 2048, got 100"),
        (("--only", "v9"), "--only: no network's name contains 'v9'; the names are mobilenet_v1"),
        (("--threads", "0"), "--threads"),
        (("--json", "no/such/folder.json"), "--json no/such/folder.json: there is no folder"),
        (("--plot", "plot.bmp"), "plot.bmp: expected a file name that ends in .png"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_invalid_options_of_choose_are_one_line(vision, arguments, message, cache):
    outcome = vision("choose", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert not cache.exists()


def test_one_file_cannot_be_two_outputs(vision, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    outcome = vision("choose", "--plot", path, "--json", path)
    assert (outcome.code, path.exists()) == (2, False)
    assert f"--plot {path}: is the file of --json too" in outcome.err


def test_figures_can_be_written_to_a_pipe_and_through_a_link(vision, one, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        assert vision(*one, "--json", tmp_path / "pipe").code == 0
        assert json.load(pipe)["members"]
    for _ in range(2):
        assert vision(*one, "--json", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file").read_text())["members"]


def test_an_interrupted_run_leaves_no_partial_files(start, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("choose", "--json", "report.json")
    assert any(b"measuring" in line for line in iter(process.stderr.readline, b""))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in errors.decode()
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    assert all(file.suffix == ".json" for file in cache.glob("*"))
