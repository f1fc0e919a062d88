"""A bounded run of the fuzzer of subscriptions, with and without faults that it must find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz_subscriptions.py")


def fuzz(script, corpus, runs):
    return subprocess.run(
        [sys.executable, str(script), f"-runs={runs}", "-seed=1", str(corpus)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        cwd=corpus.parent,
    )


def test_nothing_that_subscribers_send_confuses_the_publisher(tmp_path):
    done = fuzz(FUZZER, tmp_path / "corpus", 30_000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 30000 runs" in done.stderr


BROKEN = """
import sys
sys.path.insert(0, {folder!r})
import fuzz_subscriptions as fuzzer
from pipeline.transport.zmq.subscriptions import Subscriptions

{fault}
fuzzer.fuzzing.main(sys.argv, fuzzer.target, fuzzer.seeds())
"""

FAULTS = {
    "anybody takes back": """
process = Subscriptions.process
def take_back(self, message, connection):
    process(self, message, None if message[:1] == bytes(1) else connection)
Subscriptions.process = take_back
""",
    "repetitions count": """
add = Subscriptions._add
def count(self, topic, connection):
    connection.topics[topic] and self.prefixes.update([topic])
    add(self, topic, connection)
Subscriptions._add = count
""",
    "anybody asks": """
def ask(self, connection, message):
    for key in self._claims:
        if key[1] == message[1:-8]:
            self._waiting[key] = 1
fuzzer.WorkerGroups.note_ready = ask
""",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(tmp_path, fault):
    script = tmp_path / "broken.py"
    script.write_text(
        BROKEN.format(folder=str(FUZZER.parent), fault=FAULTS[fault]), encoding="utf-8"
    )
    done = fuzz(script, tmp_path / "corpus", 30_000)
    assert done.returncode != 0
    assert "an expectation does not hold" in done.stderr + done.stdout
