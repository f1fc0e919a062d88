"""Help, version, completion and the display of settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest

from pipeline.cli.main import SECTIONS, app
from pipeline.settings import SETTINGS, load_config, resolve
from pipeline.settings.table import GROUPS, PIPELINES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"cv2", "numpy", "numba", "onnxruntime", "yaml", "psutil", "onnx", "rich", "zmq"}
NAMES = [entry.name for entries in SECTIONS.values() for entry in entries]


def command_names() -> list[tuple[str, ...]]:
    """Every command, with its subcommands."""
    context = click.Context(app, info_name="vision")
    names: list[tuple[str, ...]] = []
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        names += [(name,), *((name, one) for one in getattr(command, "commands", ()))]
    return names


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for one in SETTINGS.values():
        monkeypatch.delenv(one.variable, raising=False)


@pytest.mark.parametrize("words", command_names(), ids=" ".join)
def test_every_command_has_help_that_fits_80_columns(vision, words):
    outcome = vision(*words, "--help")
    assert outcome.code == 0
    assert f"Usage: vision {' '.join(words)}" in outcome.out
    assert outcome.err == ""
    assert [line for line in outcome.out.splitlines() if len(line) > 80] == []


def test_help_lists_every_command_with_its_whole_summary(vision):
    out = vision("--help").out
    for entries in SECTIONS.values():
        for entry in entries:
            assert f"  {entry.name} " in out
            assert entry.summary in out
    assert "..." not in out.replace("[ARGS]...", "")


def test_the_command_alone_shows_its_help(vision):
    outcome = vision()
    assert outcome.code in (0, 2)  # click 8.2 and newer: 2
    assert "Usage: vision" in outcome.out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_and_version_load_nothing_heavy(arguments):
    program = (
        "import sys\nfrom pipeline.cli.main import main\n"
        f"assert main({arguments}) == 0\nprint('modules', *sys.modules)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(outcome.stdout.rpartition("modules ")[2].split())
    assert "pipeline.cli.main" in loaded
    assert not loaded & HEAVY


def test_version_is_that_of_the_package(vision):
    assert vision("--version").out == f"vision {metadata.version('vision')}\n"


@pytest.mark.parametrize("command", PIPELINES)
def test_a_pipeline_command_offers_exactly_the_settings_that_apply(command):
    parameters = {p.name for p in app.get_command(click.Context(app), command).params}
    for name, setting in SETTINGS.items():
        assert (name in parameters) == (command in setting.about.commands)


def test_options_stand_in_groups(vision):
    out = vision("run", "--help").out
    titles = [f"\n{group}:\n" for group in GROUPS]
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    models = out[out.index("\nModels:") : out.index("\nFrames:")]
    assert "--score NUMBER" in models
    assert "[0.25]" in models
    assert "--record" not in models
    assert "--quality 1-100" in out
    assert "--max-frame-mb MIB" in out


def test_commands_do_not_import_one_another():
    modules = {f"pipeline.cli.commands.{e.module}" for es in SECTIONS.values() for e in es}
    for module in modules:
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert [other for other in modules if f"from {other} import" in text] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(vision, shell):
    out = vision("completion", shell).out
    assert f"_VISION_COMPLETE={shell}_complete" in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["vision", "de"], {"demo", "detect"}),
        (["vision", "run", "--max-f"], {"--max-frames", "--max-frame-mb"}),
        (["vision", "run", "--nms-kind", ""], {"iou", "darknet"}),
        (["vision", "models", "ve"], {"verify"}),
    ],
    ids=["command", "option", "choice", "subcommand"],
)
def test_completion_completes(words, completed):
    environment = {
        **os.environ,
        "_VISION_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    out = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli.__main__ import main; main()"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {line.partition(",")[2] for line in out.splitlines()} == completed


def test_config_shows_each_setting_and_its_origin(vision, tmp_path, monkeypatch):
    file = tmp_path / "robot.yaml"
    file.write_text("nms: 0.6\nscore: 0.6\ntop: 2\n")
    monkeypatch.setenv("VISION_SCORE", "0.7")
    monkeypatch.setenv("VISION_TOP", "4")
    monkeypatch.setenv("VISION_PEER", "a.key b.key")
    outcome = vision("config", "--config", file, "--top", "3")
    lines = dict(line.split("#") for line in outcome.out.splitlines() if "  # " in line)
    found = {entry.strip(): origin.strip() for entry, origin in lines.items()}
    assert found["top: 3"] == "option --top"
    assert found["score: 0.7"] == "environment VISION_SCORE"
    assert found["nms: 0.6"] == f"file {file}"
    assert found["threads: null"] == "default"
    assert found['peer: ["a.key", "b.key"]'] == "environment VISION_PEER"
    assert len(found) == len(SETTINGS)


def test_config_warns_of_a_mistyped_variable(vision, monkeypatch):
    monkeypatch.setenv("VISION_SCOR", "3")
    outcome = vision("config")
    assert "VISION_SCOR: not a setting; did you mean VISION_SCORE?" in outcome.err
    assert "score: 0.25" in outcome.out


def test_output_of_config_is_a_file_with_the_same_settings(vision, tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(vision("config", "--score", "0.7", "--peer", "a b.key", "--latest").out)
    settings = resolve(None, {}, file).settings
    assert (settings.score, settings.peer, settings.every_frame) == (0.7, ("a b.key",), False)
    assert set(load_config(file)) <= set(SETTINGS)


def test_schema_describes_every_key_of_a_file(vision):
    schema = json.loads(vision("config", "--schema").out)
    assert set(SETTINGS) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    score = schema["properties"]["score"]
    assert (score["minimum"], score["maximum"], score["default"]) == (0, 1, 0.25)
    assert score["description"] == SETTINGS["score"].about.help
    assert schema["properties"]["nms-kind"]["enum"] == ["darknet", "iou"]


def test_reference_describes_every_setting(vision):
    page = vision("config", "--reference").out
    for setting in SETTINGS.values():
        assert f"| `{setting.option}`" in page
        assert setting.about.help in page
    assert "`score_threshold` of vision_node, detector_node" in page
    assert (ROOT / "docs" / "settings.md").read_text() == page, (
        "run: vision config --reference > docs/settings.md"
    )


def test_no_color_on_a_terminal(start_on_terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    code, text = start_on_terminal("run", "scene:?fps=0&frames=5")
    assert code == 0
    assert "5/5" in text
    assert "\x1b[3" not in text
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[3" in start_on_terminal("run", "scene:?fps=0&frames=5")[1]
