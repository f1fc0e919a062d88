"""The graph of MobileNetV2 against an independent NumPy network."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from pipeline.errors import ModelError
from recipes.mobilenet_v2 import build_mobilenet, read_blocks

from . import mobilenet_reference as ref

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def state():
    return ref.random_state()


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
    found = run(build_mobilenet(read_blocks(state)), pixels)
    expected = np.stack([ref.reference_features(image, state) for image in pixels])
    assert found.shape == (2, 1280)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_border_is_padded_with_the_mean_colour(state):
    """An image of nearly the mean colour reveals a mean that is folded into the bias."""
    pixels = np.broadcast_to(np.array([104, 116, 124], np.uint8), (1, 224, 224, 3))
    found = run(build_mobilenet(read_blocks(state)), np.ascontiguousarray(pixels))
    np.testing.assert_allclose(found[0], ref.reference_features(pixels[0], state), atol=2e-4)


def test_head_computes_logits_for_any_batch_size(state):
    rng = np.random.default_rng(6)
    weight = rng.normal(0, 0.1, (7, 1280)).astype(np.float32)
    bias = rng.normal(0, 1, 7).astype(np.float32)
    pixels = rng.integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    features = run(build_mobilenet(read_blocks(state)), pixels)
    for count in (1, 3):
        logits = run(build_mobilenet(read_blocks(state), (weight, bias)), pixels[:count])
        np.testing.assert_allclose(logits, features[:count] @ weight.T + bias, atol=1e-3)


def test_missing_tensor_is_named(state):
    partial = {name: array for name, array in state.items() if name != "features.7.conv.3.weight"}
    with pytest.raises(ModelError, match=r"'features\.7\.conv\.3\.weight', but there is none"):
        read_blocks(partial)


def test_tensor_of_wrong_shape_is_named_with_both_shapes(state):
    other = {**state, "features.18.0.weight": np.zeros((1280, 160, 1, 1), np.float32)}
    with pytest.raises(ModelError, match=r"of shape \(1280, 320, 1, 1\), but got \(1280, 160"):
        read_blocks(other)
