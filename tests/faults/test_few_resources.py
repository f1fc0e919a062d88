"""Too few file descriptors, too little memory: one line that says what is missing."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys

import pytest

from pipeline.cli.shortage import (
    ADDRESS_SPACE,
    ADDRESS_SPACE_OF_MODELS,
    DESCRIPTORS,
    shortage,
)
from pipeline.errors import ModelError, OutputError, StageError

from . import processes

LIMIT_S = 60
UNCHECKED = """
import pipeline.cli.options
pipeline.cli.options.check_limits = lambda **_: None
from pipeline.cli.__main__ import main
main()
"""
"""The command without the check at its start, to meet the limits where they matter."""

FULL = """
import resource
import pipeline.cli.session
from pipeline.cli.__main__ import main

pages = int(open("/proc/self/statm").read().split()[0])
space = pages * resource.getpagesize() + {megabytes} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (space, space))
main()
"""
"""The command with little more memory than its libraries take."""


def ended(folder, *command, **limits):
    """Run a Python program with limits; returns the exit code and what it said."""

    def limit():
        for name, most in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (most, most))

    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, **processes.NICE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        preexec_fn=limit,
        check=False,
    )
    return done.returncode, done.stderr


def arguments_of(command, address):
    scene = "scene:?size=320x240&frames=2"
    more = ("--jsonl", "a.jsonl", "--record", "a.mp4") if command == "run" else ()
    return (command, scene, "--publish", address, *more)


def assert_one_error(said):
    errors = [line for line in said.splitlines() if not line.startswith("vision: warning")]
    errors = [line for line in errors if "publishing at" not in line]
    assert len(errors) == 1, said
    assert errors[0].startswith("vision: error: "), said
    return errors[0]


@pytest.mark.parametrize("command", ["run", "camera"])
@pytest.mark.parametrize("limit", [12, 24, DESCRIPTORS - 1])
def test_too_few_file_descriptors_are_named_before_the_run(tmp_path, address, command, limit):
    code, said = ended(
        tmp_path, "-m", "pipeline.cli", *arguments_of(command, address), nofile=limit
    )
    assert code == 1
    assert f"limit is {limit}, but {DESCRIPTORS} are needed" in assert_one_error(said)
    assert "ulimit -n 1024" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "camera"])
@pytest.mark.parametrize("limit", [DESCRIPTORS, 40])
def test_a_run_works_with_the_stated_number_of_file_descriptors(tmp_path, address, command, limit):
    code, said = ended(
        tmp_path, "-m", "pipeline.cli", *arguments_of(command, address), nofile=limit
    )
    assert code == 0, said
    assert " frames in " in said


def test_inherited_files_count(tmp_path, address):
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    program = "import os, sys\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    try:
        for file in kept:
            os.set_inheritable(file, True)
        done = subprocess.run(
            [sys.executable, "-c", program, "-m", "pipeline.cli", *arguments_of("run", address)],
            cwd=tmp_path,
            env={**os.environ, **processes.NICE},
            close_fds=False,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (DESCRIPTORS + 15, DESCRIPTORS + 15)
            ),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        for file in kept:
            os.close(file)
    assert done.returncode == 1
    needed = re.search(r"but (\d+) are needed", assert_one_error(done.stderr))
    assert int(needed[1]) >= DESCRIPTORS + len(kept)


@pytest.mark.parametrize("command", ["run", "camera"])
@pytest.mark.parametrize("limit", [6, 14, 20, 22, 26])
def test_running_out_of_file_descriptors_is_one_line(tmp_path, address, command, limit):
    code, said = ended(tmp_path, "-c", UNCHECKED, *arguments_of(command, address), nofile=limit)
    if code:
        assert "descriptors" in assert_one_error(said)
    assert "internal error" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("run", "scene:"), ADDRESS_SPACE_OF_MODELS),
        (("models", "list"), ADDRESS_SPACE),
    ],
    ids=["run", "models"],
)
def test_too_little_address_space_is_named_before_libraries_are_loaded(tmp_path, arguments, needed):
    space = needed - 50_000_000
    code, said = ended(tmp_path, "-m", "pipeline.cli", *arguments, **{"as": space})
    assert code == 1
    line = assert_one_error(said)
    assert f"limited to {space // 10**6} MB, but at least {needed // 10**6} MB" in line
    assert "ulimit -v" in line


@pytest.mark.parametrize("megabytes", [0, 1, 4, 12, 40])
def test_running_out_of_memory_is_one_line(tmp_path, megabytes):
    code, said = ended(
        tmp_path,
        *("-c", FULL.format(megabytes=megabytes)),
        *("run", "scene:?frames=30", "--detector", "none", "--jsonl", "a.jsonl"),
    )
    assert "Traceback" not in said
    assert "internal error" not in said
    if code:
        assert "memory" in assert_one_error(said).lower()


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too few file descriptors"),
        (ImportError("liba.so: cannot open shared object file: Error 24"), "file descriptors"),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
        (MemoryError(), "too little memory"),
        (ImportError("a.so: failed to map segment from shared object"), "too little memory"),
        (ModelError("a.onnx: not a usable ONNX model: std::bad_alloc"), "too little memory"),
        (
            caused(StageError("stage detect: MemoryError: "), MemoryError("Unable to allocate")),
            "too little memory",
        ),
        (
            caused(OSError("Could not find/load shared object file"), OSError(12, "no memory")),
            "too little memory",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_shortage_is_recognised(error, said):
    assert said in (shortage(error) or "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError(errno.ENOENT, "No such file or directory"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        caused(OutputError("sockets: 16 are needed"), OSError(errno.EMFILE, "Too many open files")),
    ],
    ids=["bug", "other", "busy", "named-by-its-subject"],
)
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None
