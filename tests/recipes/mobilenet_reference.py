"""MobileNetV2 in plain float64 NumPy, batch norm apart, and random weights for it."""

from __future__ import annotations

import numpy as np

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


def random_state():
    """A state dict with the names and shapes of the published network."""
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
    """The network as published, batch norm apart, on one uint8 BGR image."""
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
