"""Names that are not UTF-8 work, or are refused with one line; none crashes a library."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError, ModelError
from pipeline.inference.session import open_model
from pipeline.output.files import check_target
from pipeline.text.native import utf8
from tests import footage

ROOT = Path(__file__).resolve().parents[2]
BAD = os.fsdecode(b"v\xff")
SCENE = ("scene:?size=64x48", "--max-frames", "2")
PLAIN = ("--detector", "none", "--classifier", "none")

# Commands whose names work, and those that are refused.
WORKS = {
    "folder": ("run", BAD, *PLAIN),
    "image": ("run", f"{BAD}/{BAD}.jpg", *PLAIN),
    "glob": ("run", f"{BAD}/*.jpg", *PLAIN),
    "jsonl": ("run", *SCENE, *PLAIN, "--jsonl", f"{BAD}.jsonl", "--stats", f"{BAD}.json"),
    "config": ("run", *SCENE, *PLAIN, "--config", f"{BAD}.yaml"),
    "show-config": ("config", "--config", f"{BAD}.yaml", "--record", f"{BAD}.mp4"),
    "path": ("models", "path", "./yolo.onnx"),
    "compare": (
        *("compare", f"{BAD}/{BAD}.jpg", "yolo.onnx", "yolo.onnx"),
        *("--output", "side.jpg", "--html", f"{BAD}.html"),
    ),
}
REFUSED = {
    "video": ("run", f"{BAD}.mp4", *PLAIN),
    "record": ("run", *SCENE, *PLAIN, "--record", f"{BAD}2.mp4"),
    "record-in-a-folder": ("run", *SCENE, *PLAIN, "--record", f"{BAD}/2.mp4"),
    "record-in-yaml": ("run", *SCENE, *PLAIN, "--config", "record.yaml"),
    "surrogate-in-yaml": ("run", *SCENE, *PLAIN, "--config", "surrogate.yaml"),
    "detector": ("run", *SCENE, "--detector", f"{BAD}.onnx"),
    "classifier": ("run", *SCENE, "--classifier", f"{BAD}.onnx"),
    "model-name": ("run", *SCENE, "--detector", BAD),
    "manifest": ("run", *SCENE, "--manifest", f"{BAD}.toml"),
    "rtsp": ("run", f"rtsp://127.0.0.1:9/{BAD}"),
    "http": ("run", f"http://127.0.0.1:9/{BAD}"),
    "tcp": ("run", f"zmq+tcp://{BAD}:1", "--insecure"),
    "ipc": ("run", f"zmq+ipc:///tmp/{BAD}"),
    "publish": ("run", *SCENE, "--publish", f"zmq+ipc:///tmp/{BAD}"),
    "subscribe": ("detect", "--subscribe", f"zmq+ipc:///tmp/{BAD}"),
    "group": ("detect", "--subscribe", "zmq+ipc:///tmp/a", "--group", BAD),
    "device": ("run", f"/dev/{BAD}"),
    "scheme": ("run", f"{BAD}://x"),
    "scene": ("run", f"scene:?size={BAD}"),
    "camera": ("run", *SCENE, "--camera", BAD),
    "number": ("run", *SCENE, "--score", BAD),
    "choice": ("run", *SCENE, "--nms-kind", BAD),
    "four-letters": ("run", *SCENE, "--fourcc", BAD),
    "option": ("run", f"--{BAD}"),
    "command": (BAD,),
    "keys": ("keys", BAD),
    "key": ("camera", *SCENE, "--publish", "zmq+tcp://127.0.0.1:9", "--key", f"{BAD}.key"),
    "model": ("models", "info", f"{BAD}.onnx"),
    "evaluate-model": ("evaluate", f"{BAD}.onnx", BAD),
    "evaluate-data": ("evaluate", "yolo.onnx", BAD),
    "evaluate-classes": ("evaluate", "mobilenetv2-int8", f"{BAD}classes"),
    "evaluate-plot": ("evaluate", "yolo.onnx", BAD, "--plot", f"{BAD}.png"),
    "quantize": ("quantize", f"{BAD}.onnx", "--images", BAD, "-o", "int8.onnx"),
    "compare-model": ("compare", f"{BAD}/{BAD}.jpg", "yolo.onnx", f"{BAD}.onnx"),
    "head": ("head", "--images", f"{BAD}classes", "-o", "head.onnx"),
    "darknet": ("import-darknet", f"{BAD}.cfg", f"{BAD}.weights", "-o", "x.onnx"),
    "demo": ("demo", "--output", f"{BAD}.jpg"),
    "choose": ("choose", "--only", BAD),
}

RUN_ALL = """
import json, os, sys
from pipeline.cli.main import main

for name, arguments in json.load(open("commands.json")).items():
    files = {1: name + ".out", 2: name + ".err"}
    for number, file in files.items():
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
    with open(name + ".code", "w") as code:
        print(main(arguments), file=code)
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A function: the exit code and the errors of a command.

    All commands run in one process, to import once. The first that crashes ends it.
    """
    folder = tmp_path_factory.mktemp("names")
    models = ROOT / "models"
    photo = models / "samples" / "cat.jpg"
    footage.make(folder / "good.mp4", frames=3)
    shutil.copy(folder / "good.mp4", folder / f"{BAD}.mp4")
    for name in (f"{BAD}.onnx", "yolo.onnx"):
        shutil.copy(models / "yolov4-tiny-int8.onnx", folder / name)
    for place in (BAD, f"{BAD}classes/{BAD}", f"{BAD}classes/red"):
        (folder / place).mkdir(parents=True)
        shutil.copy(photo, folder / place / f"{BAD}.jpg")
        shutil.copy(photo, folder / place / "2.jpg")
    (folder / f"{BAD}.yaml").write_text("score: 0.5\n")
    (folder / "record.yaml").write_bytes(b"record: v\xff.mp4\n")
    (folder / "surrogate.yaml").write_text('record: "v\\uDCFF.mp4"\n')
    (folder / "commands.json").write_text(json.dumps({**WORKS, **REFUSED}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("DISPLAY", "VISION_TEST_DATA"):
        environment.pop(name, None)
    subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", RUN_ALL],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=200,
    )

    def outcome(name: str) -> tuple[int, str]:
        code = (folder / f"{name}.code").read_text()
        errors = (folder / f"{name}.err").read_text()
        assert code, f"the command crashed: {errors}"
        return int(code), errors

    return outcome


@pytest.mark.parametrize("name", WORKS)
def test_a_command_works_with_a_name_that_is_not_utf8(outcome, name):
    code, errors = outcome(name)
    assert code == 0, errors


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_refuses_a_name_that_is_not_utf8_with_one_line(outcome, name):
    code, errors = outcome(name)
    assert code == 2
    assert errors.startswith("vision: error: ")
    assert errors.count("\n") == 1
    assert "\udcff" not in errors


@pytest.mark.parametrize("code", [0xDCFF, 0xD800, 0], ids=["byte", "half-pair", "null"])
def test_a_library_gets_no_such_name(code):
    text = f"v{chr(code)}"
    with pytest.raises(InputError, match=r"^v\\"):
        utf8(text)
    with pytest.raises(InputError, match=r"^a/v\\"):
        utf8(Path("a") / text)


def test_a_library_gets_all_other_names():
    assert utf8("été/日本.mp4") == "été/日本.mp4"


@pytest.mark.parametrize("name", ["x" * 300, "null\0"], ids=["long", "null"])
def test_an_output_has_a_name_that_a_file_can_have(tmp_path, name):
    for is_replaced in (False, True):
        with pytest.raises(InputError, match=r"^--stats .*; choose another name$"):
            check_target(tmp_path / name, "--stats", is_replaced=is_replaced)


def test_a_model_with_texts_that_are_not_utf8_is_refused(tmp_path):
    data = (ROOT / "models" / "yolov4-tiny-int8.onnx").read_bytes()
    assert data.count(b'"person"') == 1
    path = tmp_path / "model.onnx"
    path.write_bytes(data.replace(b'"person"', b'"p\xffrson"'))
    with pytest.raises(ModelError, match="its texts are not UTF-8"):
        open_model(path)


CALLS = {"VideoCapture", "VideoWriter", "haveImageWriter", "imencode", "imread", "imwrite"}
CALLS |= {"InferenceSession", "namedWindow"}
CHECKED = {"utf8", "printable", "SerializeToString"}  # the latter gives the bytes of a model


def test_every_name_for_a_native_library_is_checked():
    unchecked = []
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        assigned = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in CALLS:
                first = call.args[0]
                value = assigned.get(first.id, first) if isinstance(first, ast.Name) else first
                names = {
                    getattr(node.func, "attr", getattr(node.func, "id", ""))
                    for node in ast.walk(value)
                    if isinstance(node, ast.Call)
                }
                if not names & CHECKED:
                    unchecked.append(f"{path}:{call.lineno}")
    assert unchecked == []
