"""Memory and threads of programs that open and close much, or forget to close.

`make soak-memory` opens and closes 400 pipelines instead of `OPENED`.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from functools import partial

import psutil
import pytest

from pipeline.capture.live import open_live
from pipeline.capture.readers import Request
from pipeline.engine import Pipeline
from pipeline.source import SourceOptions
from pipeline.sources import open_source
from pipeline.transport import Publisher

from .processes import ROOT, wait_for

OPENED = int(os.environ.get("VISION_PIPELINES", "25"))
GROWTH_MB = 50
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
