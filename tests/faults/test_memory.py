"""Memory of a run, and of programs that open and close much or forget to close.

`make soak-memory` opens and closes 400 pipelines instead of `OPENED`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline.capture.live import open_live
from pipeline.capture.readers import Request
from pipeline.engine import Pipeline
from pipeline.source import SourceOptions
from pipeline.sources import open_source
from pipeline.transport import Publisher

from .processes import ROOT, Command, wait_for

OPENED = int(os.environ.get("VISION_PIPELINES", "25"))
GROWTH_MB = 50
WARM_MB, COMPILING_MB = 260, 320
SCENE = "scene:?size=640x480&fps=0"

OPEN_AND_CLOSE = """
import sys
import psutil
from pipeline import Classifier, Detector, Pipeline, open_source

sizes = []
for i in range(int(sys.argv[1])):
    source = open_source("scene:?size=640x480&fps=0")
    with Pipeline(source, Detector(), Classifier(), max_frames=3) as pipeline:
        for result in pipeline:
            pass
    sizes.append(psutil.Process().memory_info().rss / 2**20)
print(sizes[1], max(sizes[2:]))
"""

FORGET = """
from pipeline import Detector, Pipeline, open_source

pipeline = Pipeline(open_source("scene:?size=640x480&fps=0"), Detector()).__enter__()
next(pipeline)
"""


def run(script, *arguments):
    command = [sys.executable, "-W", "default", "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60 + OPENED
    )


def peaks_mb(command):
    """The largest resident memory of a command and of its child processes, until it ends."""
    peaks = {}
    while command.is_alive:
        for process in (psutil.Process(command.process.pid), *children_of(command.process.pid)):
            with contextlib.suppress(OSError, IndexError):  # it has just ended
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks[process.pid] = int(status.split("VmHWM:")[1].split()[0]) / 1024
        time.sleep(0.01)
    return peaks.pop(command.process.pid), max(peaks.values(), default=0)


def children_of(pid):
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_run_stays_within_its_memory_and_so_does_the_one_that_compiles(tmp_path):
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}
    arguments = ("run", "scene:?size=1280x720&fps=0", "--max-frames", 40)
    for limit_mb, childs_limit_mb in ((COMPILING_MB, COMPILING_MB), (WARM_MB, 0)):
        command = Command(*arguments, folder=tmp_path, env=env)
        peak, childs_peak = peaks_mb(command)
        assert command.await_end() == 0, command.said
        assert peak < limit_mb, (peak, childs_peak)
        assert childs_peak <= childs_limit_mb, (peak, childs_peak)


def test_a_program_that_opens_and_closes_pipelines_does_not_grow():
    first, largest = map(float, run(OPEN_AND_CLOSE, OPENED).stdout.split())
    assert largest - first < GROWTH_MB


def threads_besides(before):
    return set(threading.enumerate()) - before


def test_a_dropped_pipeline_ends_its_threads_and_closes_its_source():
    before = set(threading.enumerate())
    pipeline = Pipeline(open_source(SCENE), threads=2).__enter__()
    source = pipeline.source
    next(pipeline)
    assert len(threads_besides(before)) > 0
    with pytest.warns(ResourceWarning, match="unclosed pipeline of scene"):
        del pipeline
    wait_for(lambda: not threads_besides(before), "the end of all threads")
    assert source.read() is None


def test_a_dropped_pipeline_that_refers_to_itself_is_closed_by_the_garbage_collector():
    before = set(threading.enumerate())
    pipeline = Pipeline(open_source(SCENE)).__enter__()
    pipeline.itself = pipeline
    del pipeline
    with pytest.warns(ResourceWarning, match="unclosed pipeline of scene"):
        gc.collect()
    wait_for(lambda: not threads_besides(before), "the end of all threads")


def test_a_closed_pipeline_is_freed_at_once_and_without_a_warning(recwarn):
    with Pipeline(open_source(SCENE), max_frames=2) as pipeline:
        list(pipeline)
    gc.disable()
    try:
        freed = []
        pipeline._graph.trace = Trace(freed)
        del pipeline
        assert freed == [True]
    finally:
        gc.enable()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


class Trace:
    """Notes that it is freed."""

    def __init__(self, freed):
        self.freed = freed

    def __del__(self):
        self.freed.append(True)


def test_a_program_that_ends_without_closing_ends_orderly():
    said = run(FORGET).stderr
    assert "unclosed pipeline" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", ["camera", "subscription"])
def test_a_dropped_source_ends_its_threads_and_connections(kind, address):
    ended = threading.Event()
    sender = threading.Thread(target=publish, args=(address, ended))
    sender.start()
    opens = open_on_a_thread if kind == "camera" else partial(open_source, address)
    try:
        open_and_drop(opens)  # opens what the process keeps, such as ZeroMQ's threads
        wait_for(lambda: not named_threads("closing"), "the end of the first source")
        before, files = set(threading.enumerate()), psutil.Process().num_fds()
        for _ in range(3):
            open_and_drop(opens)
        wait_for(lambda: not threads_besides(before), "the end of all threads")
        wait_for(lambda: psutil.Process().num_fds() <= files, "the end of all connections")
    finally:
        ended.set()
        sender.join()


def publish(address, ended):
    with Publisher(address) as publisher, open_source("scene:?size=64x48") as scene:
        while not ended.is_set():
            publisher.send_frame(scene.read())


def open_on_a_thread():
    """A source that is read as cameras are."""
    return open_live(
        lambda request: open_source(request.text),
        Request("scene:?size=64x48", SourceOptions()),
        subject="source of a test",
    )


def open_and_drop(opens):
    source = opens()
    assert source.read() is not None
    with pytest.warns(ResourceWarning, match="unclosed s"):
        del source


def named_threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]
