"""Which layers of a network to leave in float: named by the user, or found by measurement."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.zoo.quantization.calibration import Batch, Report, open_with_outputs
from pipeline.zoo.quantization.quantize import Calibrated

if TYPE_CHECKING:
    import onnx

_PICTURES = 8
"""Pictures that show how much a layer costs; what is found is measured on all afterwards."""

Answers = list[npt.NDArray[np.float32]]


def named_layers(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """The layers that `names` or patterns such as `head*` stand for.

    Raises `ConfigError` where one stands for none.
    """
    layers, found = list(layers), []
    for name in names:
        matching = fnmatch.filter(layers, name)
        if not matching:
            near = difflib.get_close_matches(name, layers, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"it has {_some(layers)}"
            raise ConfigError(f"--keep-float {name}: the network has no such layer; {hint}")
        found += matching
    return list(dict.fromkeys(found))


def rank_layers(calibrated: Calibrated, batches: Sequence[Batch], report: Report) -> list[str]:
    """The layers by how far the answers are off when that one alone is int8, over its work.

    The first costs the most accuracy for the least time. Each alone, because that way both sides of
    a tensor that int8 spoils are found: leaving one of them in float changes nothing, as the other
    still rounds it.
    """
    few = [batches[index * len(batches) // _PICTURES][:1] for index in range(_PICTURES)]
    few = few if len(batches) >= _PICTURES else [batch[:1] for batch in batches]
    expected = _answers(calibrated.model, few)
    errors = {}
    layers = calibrated.layers
    for number, layer in enumerate(layers, start=1):
        others = [node for name, nodes in layers.items() if name != layer for node in nodes]
        errors[layer] = _error(_answers(calibrated.quantize(others), few), expected)
        report("trying each layer", number, len(layers))
    work = _work(calibrated, few[0])
    return sorted(errors, key=lambda layer: errors[layer] / work[layer], reverse=True)


def fewest_in_float(
    ranked: Sequence[str], loss_with: Callable[[Sequence[str]], float], max_loss: float
) -> list[str]:
    """The shortest beginning of `ranked` that loses at most `max_loss` points.

    Lengths are doubled until one is enough, and what lies between is halved. Loss hardly ever
    grows with more layers in float; where it does, the answer still keeps the limit. All of them
    where no beginning does.
    """
    enough, short = 0, -1
    while loss_with(ranked[:enough]) > max_loss:
        if enough == len(ranked):
            return list(ranked)
        short, enough = enough, min(max(1, 2 * enough), len(ranked))
    while enough - short > 1:
        middle = (short + enough) // 2
        if loss_with(ranked[:middle]) > max_loss:
            short = middle
        else:
            enough = middle
    return list(ranked[:enough])


def _work(calibrated: Calibrated, batch: Batch) -> dict[str, float]:
    """The multiply-adds of each layer for one picture; of one without weights, its answers."""
    nodes = {node.name: node for node in calibrated.model.graph.node}
    sizes = {tensor.name: list(tensor.dims) for tensor in calibrated.model.graph.initializer}
    layers = list(calibrated.layers)
    outputs = [nodes[layer].output[0] for layer in layers]
    session = open_with_outputs(calibrated.model, outputs)
    answers = session.run(outputs, {session.get_inputs()[0].name: batch})
    work = {}
    for layer, answer in zip(layers, answers, strict=True):
        node = nodes[layer]
        weight = sizes.get(node.input[1], []) if len(node.input) > 1 else []
        taps = weight[0] if node.op_type == "MatMul" else math.prod(weight[1:])
        work[layer] = float(answer.size * taps)
    return work


def _answers(model: onnx.ModelProto, batches: Sequence[Batch]) -> Answers:
    session = open_with_outputs(model, [])
    entry = session.get_inputs()[0].name
    return [value for batch in batches for value in session.run(None, {entry: batch})]


def _error(found: Answers, expected: Answers) -> float:
    """Mean squared error, each output in units of its own spread."""
    shares = [
        float(np.mean((a - b) ** 2) / max(float(np.var(b)), 1e-12))
        for a, b in zip(found, expected, strict=True)
    ]
    return float(np.mean(shares))


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
