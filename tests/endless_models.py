"""Models with an endless loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.inference.manifest import read_manifest
from pipeline.inference.spec import METADATA_KEY, encode_spec

SIZE = 32
INPUT = f"""
labels = ["cat", "dog", "cup"]
[input]
name = "image"
width = {SIZE}
height = {SIZE}
"""
MANIFESTS = {
    "detect": f"""
task = "detect"
{INPUT}
[[heads]]
output = "found"
anchors = [[10, 14], [23, 27], [37, 58]]
""",
    "classify": f"""
task = "classify"
logits = "found"
{INPUT}
""",
}


def endless(path: Path, task: str, *, while_bright: bool = False) -> Path:
    """Write a model whose loop never ends, or only ends for black images with `while_bright`."""
    onnx = pytest.importorskip("onnx")
    of, kinds = onnx.helper, onnx.TensorProto
    channels = 24 if task == "detect" else 3
    again = of.make_graph(
        [of.make_node(what, [one], [f"next_{one}"]) for one, what in
         (("going", "Identity"), ("value", "Identity"))],
        "again",
        [of.make_tensor_value_info(*one) for one in
         (("count", kinds.INT64, []), ("going", kinds.BOOL, []), ("value", kinds.FLOAT, None))],
        [of.make_tensor_value_info(*one) for one in
         (("next_going", kinds.BOOL, []), ("next_value", kinds.FLOAT, None))],
    )  # fmt: skip
    shape = [1, channels, SIZE // 16, SIZE // 16] if task == "detect" else [1, channels]
    condition = ["going"] if while_bright else ["true"]
    nodes = [
        of.make_node("Cast", ["image"], ["pixels"], to=kinds.FLOAT),
        of.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        of.make_node("Cast", ["brightest"], ["going"], to=kinds.BOOL),
        of.make_node("Expand", ["brightest", "shape"], ["start"]),
        of.make_node("Loop", ["", *condition, "start"], ["found"], body=again),
    ]
    graph = of.make_graph(
        nodes,
        "endless",
        [of.make_tensor_value_info("image", kinds.UINT8, [1, SIZE, SIZE, 3])],
        [of.make_tensor_value_info("found", kinds.FLOAT, shape)],
        [
            of.make_tensor("true", kinds.BOOL, [], [True]),
            of.make_tensor("shape", kinds.INT64, [len(shape)], shape),
        ],
    )
    model = of.make_model(graph, opset_imports=[of.make_opsetid("", 17)], ir_version=8)
    path.with_suffix(".toml").write_text(MANIFESTS[task])
    spec = encode_spec(read_manifest(path.with_suffix(".toml")))
    of.set_model_props(model, {METADATA_KEY: spec})
    onnx.save(model, path)
    return path
