"""A bounded run of the fuzzer, so that it stays able to run and to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).with_name("fuzz_wire.py")


def fuzz(script, corpus, runs):
    return subprocess.run(
        [sys.executable, str(script), f"-runs={runs}", "-seed=1", str(corpus)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        cwd=corpus.parent,
    )


def test_no_input_brings_the_readers_down(tmp_path):
    done = fuzz(FUZZER, tmp_path / "corpus", 30_000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 30000 runs" in done.stderr


BROKEN = """
import sys
sys.path.insert(0, {folder!r})
import fuzz_wire

def read(data):
    if data not in known:
        raise IndexError("found")

known = {{seed[1:] for seed in fuzz_wire.seeds()}}
fuzz_wire.READERS[:] = [read]
fuzz_wire.fuzzing.main(sys.argv, fuzz_wire.Target(), fuzz_wire.seeds())
"""


def test_a_reader_that_raises_something_else_is_found(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(folder=str(FUZZER.parent)), encoding="utf-8")
    done = fuzz(script, tmp_path / "corpus", 10_000)
    assert done.returncode != 0
    assert "IndexError: found" in done.stderr + done.stdout
