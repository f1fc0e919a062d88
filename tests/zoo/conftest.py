"""Fixtures for downloads: a server with faults, and an empty folder of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import file_server


@pytest.fixture
def content() -> bytes:
    return bytes(range(256)) * 20


@pytest.fixture
def server(content):
    """An HTTP server on this machine that serves `content` with faults."""
    server = file_server.FileServer(content)
    yield server
    server.close()


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """The user's folder of models, empty, and an empty cache."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("VISION_MODELS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder
