"""Machine code that is kept on disk follows its sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

INNER = """
from pipeline.inference.kernels import kernel

@kernel
def inner(x):
    return x + {}
"""
OUTER = """
import inner
from pipeline.inference.kernels import is_compiled, kernel

@kernel(uses=[inner])
def outer(x):
    return 10 * inner.inner(x)

print(is_compiled(outer), outer(1), is_compiled(outer))
"""


def run(folder):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": f"{folder}:{ROOT}"}
    command = [sys.executable, "-c", "import outer"]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()


def test_a_kernel_is_compiled_again_if_a_module_that_it_uses_has_changed(tmp_path):
    (tmp_path / "inner.py").write_text(INNER.format(1))
    (tmp_path / "outer.py").write_text(OUTER)
    assert run(tmp_path) == ["False", "20", "True"]
    assert run(tmp_path) == ["True", "20", "True"]
    (tmp_path / "inner.py").write_text(INNER.format(5))
    assert run(tmp_path) == ["False", "60", "True"]
