"""Fixtures for models made by others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from .foreign import MANIFEST


@pytest.fixture
def files(tmp_path):
    """Write a model and its manifest; returns both paths."""

    def write(model, manifest=MANIFEST):
        onnx.save(model, tmp_path / "model.onnx")
        (tmp_path / "model.toml").write_text(manifest)
        return tmp_path / "model.onnx", tmp_path / "model.toml"

    return write


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
