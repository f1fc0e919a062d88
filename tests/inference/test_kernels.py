"""Machine code that is kept on disk follows its sources, and is made where there is no room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INNER = """
from pipeline.inference.kernels.kernel import kernel

@kernel
def inner(x):
    return x + {}
"""
OUTER = """
import inner
from pipeline.inference.kernels.kernel import kernel

@kernel(uses=[inner])
def outer(x):
    return 10 * inner.inner(x)
"""
CALL = """
import sys
from outer import outer

print(outer.is_compiled, outer(1), outer.is_compiled)
misses = sum(outer._dispatcher.stats.cache_misses.values())
print("compiled here" if misses else "loaded", "numba.np.linalg" in sys.modules)
"""
NO_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
NO_PROCESS = "import sys; sys.executable = '/nonexistent'\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner.py").write_text(INNER.format(1))
    (tmp_path / "outer.py").write_text(OUTER)
    return tmp_path


def run(folder, script=CALL):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": f"{folder}:{ROOT}"}
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr


def test_a_kernel_is_compiled_again_if_a_module_that_it_uses_has_changed(folder):
    assert run(folder)[0][0] == "False 20 True"
    assert run(folder)[0][0] == "True 20 True"
    (folder / "inner.py").write_text(INNER.format(5))
    assert run(folder)[0][0] == "False 60 True"


def test_a_child_compiles_and_its_parent_loads_without_the_compiler(folder):
    assert run(folder)[0] == ["False 20 True", "loaded False"]
    assert run(folder)[0] == ["True 20 True", "loaded False"]


def test_a_kernel_is_compiled_for_each_type_of_its_arguments(folder):
    assert run(folder, "from outer import outer; print(outer(1), outer(1.5))")[0] == ["20 25.0"]


def test_a_process_that_cannot_start_another_compiles_itself(folder):
    assert run(folder, NO_PROCESS + CALL)[0] == ["False 20 True", "compiled here True"]
    assert run(folder)[0][-1] == "loaded False"


def test_a_kernel_runs_if_nothing_can_be_written(folder):
    said, errors = run(folder, NO_ROOM + CALL)
    assert said == ["False 20 False", "compiled here True"]
    assert errors.count("kernels are compiled at every start") == 1


def test_an_untested_version_of_numba_loads_in_its_own_way(folder):
    untested = "from pipeline.inference.kernels import cache; cache.NEWEST_TESTED = (0, 0)\n"
    assert run(folder, untested + CALL)[0] == ["True 20 True", "compiled here True"]
    assert run(folder, untested + CALL)[0] == ["True 20 True", "loaded True"]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_machine_code_is_compiled_again(folder, suffix):
    run(folder)
    for kept in folder.rglob(f"*.{suffix}"):
        kept.write_bytes(b"damaged")
    said, errors = run(folder)
    assert said[0].split()[1:] == ["20", "True"]
    assert "damaged, compiled again" in errors


def test_plain_python_is_used_if_the_user_turns_compilation_off():
    program = (
        "import numpy as np\n"
        "from pipeline import Detector\n"
        "found = Detector(score_threshold=0.9)(np.zeros((32, 32, 3), np.uint8))\n"
        "print(len(found))"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
