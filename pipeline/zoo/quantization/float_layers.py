"""Choice of the layers to keep in float: named by the user, or found by measurement."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.zoo import Report
from pipeline.zoo.onnx_file import ModelProto, open_with_outputs
from pipeline.zoo.quantization.calibration import Batch
from pipeline.zoo.quantization.quantize import Calibrated

_IMAGES = 8
"""Images to rank the layers with; the choice is then measured on all images."""

Answers = list[npt.NDArray[np.float32]]


def named_layers(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the layers that match `names` or patterns such as `head*`.

    Raises `ConfigError` if one of them matches no layer.
    """
    layers, found = list(layers), []
    for name in names:
        matching = fnmatch.filter(layers, name)
        if not matching:
            near = difflib.get_close_matches(name, layers, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"layers: {_some(layers)}"
            raise ConfigError(f"--keep-float {name}: the network has no such layer; {hint}")
        found += matching
    return list(dict.fromkeys(found))


def rank_layers(calibrated: Calibrated, batches: Sequence[Batch], report: Report) -> list[str]:
    """Return the layers ranked by the error of the outputs if only they are int8, over their work.

    The first layer costs the most accuracy for the least time. Layers are tried one by one, since
    that finds both the writer and the reader of a tensor that int8 damages: to keep only one of
    them in float has no effect, as the other one still rounds the tensor.
    """
    few = [batches[index * len(batches) // _IMAGES][:1] for index in range(_IMAGES)]
    few = few if len(batches) >= _IMAGES else [batch[:1] for batch in batches]
    expected = _answers(calibrated.model, few)
    errors = {}
    layers = calibrated.layers
    for number, layer in enumerate(layers, start=1):
        others = [node for name, nodes in layers.items() if name != layer for node in nodes]
        errors[layer] = _error(_answers(calibrated.quantize(others), few), expected)
        report("trying layers", number, len(layers))
    work = _work(calibrated, few[0])
    return sorted(errors, key=lambda layer: errors[layer] / work[layer], reverse=True)


def fewest_in_float(
    ranked: Sequence[str], loss_with: Callable[[Sequence[str]], float], max_loss: float
) -> list[str]:
    """Return the shortest prefix of `ranked` that loses at most `max_loss` points, or all of it.

    The length is doubled until it suffices and then found by bisection. The loss rarely grows with
    more layers in float; if it does, the result still keeps the limit.
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
    """Return the multiply-adds of each layer for one image, or its outputs if it has no weights."""
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


def _answers(model: ModelProto, batches: Sequence[Batch]) -> Answers:
    session = open_with_outputs(model)
    entry = session.get_inputs()[0].name
    return [value for batch in batches for value in session.run(None, {entry: batch})]


def _error(found: Answers, expected: Answers) -> float:
    """Return the mean squared error, each output relative to its variance."""
    shares = [
        float(np.mean((a - b) ** 2) / max(float(np.var(b)), 1e-12))
        for a, b in zip(found, expected, strict=True)
    ]
    return float(np.mean(shares))


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
