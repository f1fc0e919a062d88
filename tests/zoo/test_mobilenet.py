from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from pipeline.errors import ModelError
from pipeline.zoo.mobilenet import build_mobilenet

onnx = pytest.importorskip("onnx")

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
          (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip


def layers():
    """Name, weight shape, stride, groups, activation and block of every convolution, by hand."""
    yield "features.0.0", "features.0.1", (32, 3, 3, 3), 2, 1, True, None
    channels, block = 32, 1
    for expansion, out, repeats, first in STAGES:
        for repeat in range(repeats):
            stride = first if repeat == 0 else 1
            hidden = channels * expansion
            add = block if stride == 1 and channels == out else None
            parts = [((hidden, 1, 3, 3), stride, hidden, True), ((out, hidden, 1, 1), 1, 1, False)]
            if expansion != 1:
                parts.insert(0, ((hidden, channels, 1, 1), 1, 1, True))
            index = 0
            for position, (shape, step, groups, active) in enumerate(parts):
                mark = None if add is None else ("last" if position == len(parts) - 1 else
                                                 "first" if position == 0 else None)  # fmt: skip
                name = f"features.{block}.conv.{index}"
                norm = f"features.{block}.conv.{index + 1}"
                yield name, norm, shape, step, groups, active, mark
                index += 3 if active else 2
            channels, block = out, block + 1
    yield "features.18.0", "features.18.1", (1280, 320, 1, 1), 1, 1, True, None


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(3)
    state = {}
    for conv, norm, shape, *_ in layers():
        fan_in = np.prod(shape[1:])
        state[f"{conv}.weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        state[f"{norm}.bias"] = rng.normal(0.3, 0.3, shape[0]).astype(np.float32)
        state[f"{norm}.running_mean"] = rng.normal(0, 0.2, shape[0]).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
    return state


def convolve(x, weight, stride, groups):
    """Direct convolution in float64, zero-padded by half the kernel; x is (C, H, W)."""
    size = weight.shape[-1]
    if size == 1:
        return np.tensordot(weight[:, :, 0, 0], x, axes=1)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = ((side - 1) // stride + 1 for side in x.shape[1:])
    total = np.zeros((len(weight), height, width))
    for row in range(3):
        for column in range(3):
            part = padded[
                :, row : row + stride * height : stride, column : column + stride * width : stride
            ][:, :height, :width]
            taps = weight[:, :, row, column]
            total += part * taps[:, 0, None, None] if groups > 1 else np.tensordot(taps, part, 1)
    return total


def reference_features(image, state):
    """The network as published, batch norm apart, on one uint8 BGR picture."""
    x = ((image[..., ::-1] / 255.0 - MEAN) / STD).transpose(2, 0, 1)
    entry = x
    for conv, norm, _shape, stride, groups, active, mark in layers():
        if mark == "first":
            entry = x
        x = convolve(x, state[f"{conv}.weight"].astype(np.float64), stride, groups)
        gamma, beta, mean, variance = (
            state[f"{norm}.{part}"].astype(np.float64)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        if active:
            x = np.clip(x, 0, 6)
        if mark == "last":
            x = x + entry
    return x.mean(axis=(1, 2))


def run(model, pixels):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {"image": pixels})
    return output


def test_features_equal_the_published_network_on_raw_pixels(state):
    pixels = np.random.default_rng(5).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = run(build_mobilenet(state), pixels)
    expected = np.stack([reference_features(image, state) for image in pixels])
    assert found.shape == (2, 1280)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_border_is_padded_with_the_mean_colour_not_with_black(state):
    """On a picture of nearly the mean colour, a fold of the mean into the bias shows at once."""
    pixels = np.broadcast_to(np.array([104, 116, 124], np.uint8), (1, 224, 224, 3))
    found = run(build_mobilenet(state), np.ascontiguousarray(pixels))
    np.testing.assert_allclose(found[0], reference_features(pixels[0], state), atol=2e-4)


def test_head_gives_logits_for_any_batch(state):
    rng = np.random.default_rng(6)
    weight = rng.normal(0, 0.1, (7, 1280)).astype(np.float32)
    bias = rng.normal(0, 1, 7).astype(np.float32)
    pixels = rng.integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    features = run(build_mobilenet(state), pixels)
    for count in (1, 3):
        logits = run(build_mobilenet(state, (weight, bias)), pixels[:count])
        np.testing.assert_allclose(logits, features[:count] @ weight.T + bias, atol=1e-3)


def test_missing_tensor_is_named(state):
    partial = {name: array for name, array in state.items() if name != "features.7.conv.3.weight"}
    with pytest.raises(ModelError, match=r"'features\.7\.conv\.3\.weight', but there is none"):
        build_mobilenet(partial)


def test_tensor_of_another_width_is_named_with_both_shapes(state):
    other = {**state, "features.18.0.weight": np.zeros((1280, 160, 1, 1), np.float32)}
    with pytest.raises(ModelError, match=r"of shape \(1280, 320, 1, 1\), but got \(1280, 160"):
        build_mobilenet(other)
