"""The Python for Arm under emulation, which `make test-arm` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import parts

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
WAIT_S = 600.0  # emulation is slow, and the first run compiles the kernels


class Python:
    """A Python of one architecture, this one or Arm."""

    def __init__(self, program: str | Path, **settings: str) -> None:
        self.program = str(program)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}

    def run(self, *arguments: object, folder: Path = ROOT, **settings: str) -> str:
        """The standard output of a program that must succeed."""
        done = subprocess.run(
            [self.program, *map(str, arguments)],
            check=False,
            cwd=folder,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """A program that runs until its standard input is closed."""
        return subprocess.Popen(
            [self.program, *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def arm() -> Python:
    """Python for Arm; tests that use it are left out without `VISION_TEST_ARM`."""
    program = Path(parts.ARM)
    return Python(program, NUMBA_CACHE_DIR=str(program.parents[1] / "kernels"))


@pytest.fixture(scope="session")
def here() -> Python:
    """Python of this machine."""
    return Python(sys.executable)
