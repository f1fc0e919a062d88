"""Rings of images in shared memory between processes that write, read and are killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import NoFreeSlot, RingReader, RingWriter
from pipeline.transport.shm.ring_file import Gone, remove_leftovers
from pipeline.transport.wire.schema import (
    SharedReference,
)

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="rings in shared memory need Linux with /dev/shm"
)
ROOT = Path(__file__).resolve().parents[3]
SHAPE = (48, 64, 3)
WAIT_S = 20


def filled(value):
    return np.full(SHAPE, value, np.uint8)


def is_there(ring):
    return os.path.exists(ring_file.path_of(ring))


def start(code):
    """Another process that runs `code` and then waits; its first line of output."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return process, process.stdout.readline().strip()


@contextlib.contextmanager
def running(code):
    process, line = start(code)
    try:
        yield process, line
    finally:
        process.kill()
        process.communicate()


WRITE = """
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import RingWriter
import numpy as np
ring_file.FOLDER = {folder!r}
ring = RingWriter(9216)
ring.write(np.full((48, 64, 3), 7, np.uint8))
print(ring.ring, end="")
"""


def test_the_next_start_removes_what_a_killed_writer_left(tmp_path, monkeypatch):
    # In a folder of its own, where no other process starts meanwhile.
    monkeypatch.setattr(ring_file, "FOLDER", str(tmp_path))
    with running(WRITE.format(folder=str(tmp_path))) as (process, ring):
        reference = SharedReference(ring=ring, slot=0, generation=2)
        image = RingReader(ring).read(reference, SHAPE)
        remove_leftovers()
        assert is_there(ring)  # the writer lives
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        assert is_there(ring)
        RingWriter(1000).close()
        assert not is_there(ring)
        assert (image == 7).all()


READ = """
from pipeline.transport.shm.ring import RingReader
from pipeline.transport.wire.schema import (SharedReference,)
reader = RingReader({ring!r})
held = reader.read(SharedReference(ring={ring!r}, slot={slot}, generation=2), (48, 64, 3))
"""


def test_a_killed_reader_releases_its_slots(writer):
    references = [writer.write(filled(value)) for value in range(writer.slots)]
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(running(READ.format(ring=writer.ring, slot=reference.slot)))[0]
            for reference in references
        ]
        with pytest.raises(NoFreeSlot):
            writer.write(filled(9))
        readers[2].send_signal(signal.SIGKILL)
        readers[2].wait(WAIT_S)
        assert writer.write(filled(9)).slot == 2


def write_for(pipe, count, *, is_early):
    ring = RingWriter(640 * 480 * 3, slots=3)
    pipe.send(ring.ring)
    image = np.empty((480, 640, 3), np.uint8)
    for value in range(count):
        image[:] = value % 251

        def tell(reference, value=value):
            pipe.send((reference.slot, reference.generation, value % 251))

        with contextlib.suppress(NoFreeSlot):
            reference = ring.write(image, tell if is_early else None)
            if not is_early:
                tell(reference)
    pipe.send(None)
    pipe.recv()
    ring.close()


@pytest.mark.parametrize("is_early", [False, True], ids=["told after", "told before it is copied"])
def test_a_fast_writer_never_tears_an_image(is_early):
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=write_for, args=(there, 1500), kwargs={"is_early": is_early}
    )
    process.start()
    there.close()
    reader = RingReader(here.recv())
    held, whole, gone = [], 0, 0
    while (message := here.recv()) is not None:
        slot, generation, value = message
        try:
            image = reader.read(
                SharedReference(ring=reader.ring, slot=slot, generation=generation), (480, 640, 3)
            )
        except Gone:
            gone += 1
            continue
        held = [*held[-1:], (image, value)]
        for one, expected in held:
            assert (one == expected).all()
        whole += 1
    here.send("done")
    process.join(WAIT_S)
    assert process.exitcode == 0
    assert whole > 0
    assert whole + gone <= 1500


DIE_EARLY = """
import os, signal
from pipeline.transport.shm.ring import RingWriter
import numpy as np
ring = RingWriter(9216)

def tell(reference):
    print(ring.ring, reference.slot, reference.generation, flush=True)
    os.kill(os.getpid(), signal.{signal})

input()
ring.write(np.zeros((48, 64, 3), np.uint8), tell)
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"])
def test_an_image_whose_writer_ends_while_it_is_copied_is_gone(end):
    process = subprocess.Popen(
        [sys.executable, "-c", DIE_EARLY.format(signal=end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        ring, slot, generation = process.stdout.readline().split()
        reference = SharedReference(ring=ring, slot=int(slot), generation=int(generation))
        with pytest.raises(Gone, match="did not finish"):
            RingReader(ring).read(reference, SHAPE)
    finally:
        process.kill()
        process.communicate()
        remove_leftovers()
