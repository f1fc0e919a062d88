"""Rings of images in shared memory: never a torn one, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RunError
from pipeline.transport.shm import ring as shared_memory
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import MAX_LEASES, NoFreeSlot, RingReader, RingWriter
from pipeline.transport.shm.ring_file import Gone, OutOfReach
from pipeline.transport.wire.schema import (
    SharedReference,
)

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="rings in shared memory need Linux with /dev/shm"
)
SHAPE = (48, 64, 3)
WAIT_S = 20


def filled(value):
    return np.full(SHAPE, value, np.uint8)


def ring_files():
    """This process's own; those of others come and go."""
    own = f"{ring_file.PREFIX}{os.getpid()}-"
    return [name for name in os.listdir(ring_file.FOLDER) if name.startswith(own)]


def is_there(ring):
    return os.path.exists(ring_file.path_of(ring))


def test_an_image_is_read_in_place(writer):
    sent = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    reader = RingReader(writer.ring)
    got = reader.read(writer.write(sent), SHAPE)
    np.testing.assert_array_equal(got, sent)
    assert np.shares_memory(got, reader._bytes)
    assert not got.flags.writeable


def test_a_slice_of_an_image_is_written_whole(writer):
    large = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    part = large[10:58, 20:84]
    got = RingReader(writer.ring).read(writer.write(part), SHAPE)
    np.testing.assert_array_equal(got, part)


def test_a_late_reader_gets_gone(writer):
    reader = RingReader(writer.ring)
    first = writer.write(filled(0))
    for value in range(1, writer.slots + 1):
        writer.write(filled(value))
    with pytest.raises(Gone):
        reader.read(first, SHAPE)


def test_an_image_in_use_is_never_overwritten(writer):
    reader = RingReader(writer.ring)
    held = reader.read(writer.write(filled(7)), SHAPE)
    for value in range(20):
        writer.write(filled(value))
    assert (held == 7).all()


def test_a_view_of_a_view_holds_its_slot(writer):
    reader = RingReader(writer.ring)
    corner = reader.read(writer.write(filled(7)), SHAPE)[:10][:, :10]
    gc.collect()
    for value in range(20):
        writer.write(filled(value))
    assert (corner == 7).all()


def test_a_released_image_frees_its_slot(writer):
    reader = RingReader(writer.ring)
    for value in range(3 * writer.slots):
        image = reader.read(writer.write(filled(value)), SHAPE)
        assert np.shares_memory(image, reader._bytes)
        del image
    assert len(reader._unused) == MAX_LEASES


def test_a_reader_may_hold_any_number_of_images():
    ring = RingWriter(int(np.prod(SHAPE)), slots=MAX_LEASES + 2)
    reader = RingReader(ring.ring)
    held = [reader.read(ring.write(filled(value)), SHAPE) for value in range(30)]
    ring.close()
    for value, image in enumerate(held):
        assert (image == value).all()


def test_the_same_reference_read_twice_holds_until_both_are_dropped(writer):
    reader = RingReader(writer.ring)
    reference = writer.write(filled(7))
    first, second = (reader.read(reference, SHAPE) for _ in range(2))
    del first
    for value in range(20):
        writer.write(filled(value))
    assert (second == 7).all()


def test_a_ring_with_all_slots_in_use_raises(writer):
    readers = [RingReader(writer.ring) for _ in range(writer.slots)]
    held = [r.read(writer.write(filled(i)), SHAPE) for i, r in enumerate(readers)]
    with pytest.raises(NoFreeSlot):
        writer.write(filled(9))
    del held[0]
    writer.write(filled(9))


def test_images_outlive_the_ring_and_its_reader():
    ring = RingWriter(int(np.prod(SHAPE)))
    image = RingReader(ring.ring).read(ring.write(filled(7)), SHAPE)
    ring.close()
    del ring
    gc.collect()
    assert (image == 7).all()


def test_readers_open_and_close_without_leaking_files(writer):
    gc.collect()  # left by other tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        RingReader(writer.ring).read(writer.write(filled(1)), SHAPE)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_leaves_nothing_behind():
    ring = RingWriter(1000)
    assert is_there(ring.ring)
    ring.close()
    ring.close()
    assert not is_there(ring.ring)
    with pytest.raises(Gone):
        RingReader(ring.ring)


def test_a_reader_knows_when_its_ring_was_abandoned():
    ring = RingWriter(1000)
    reader = RingReader(ring.ring)
    assert not reader.is_abandoned
    ring.close()
    assert reader.is_abandoned


def test_only_the_owner_may_open_a_ring(writer):
    assert os.stat(ring_file.path_of(writer.ring)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "reference",
    [
        {"slot": 4, "generation": 2},
        {"slot": 1023, "generation": 2},
        {"slot": 0, "generation": 3},
        {"slot": 0, "generation": 4},
        {"slot": 1, "generation": 2},
    ],
    ids=str,
)
def test_a_reference_to_nothing_is_gone(writer, reference):
    writer.write(filled(1))
    with pytest.raises(Gone):
        RingReader(writer.ring).read(SharedReference(ring=writer.ring, **reference), SHAPE)


def test_an_unfinished_copy_does_not_affect_other_slots(writer):
    told = []

    def tell(reference):
        told.append(reference)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        writer.write(filled(1), tell)
    reader = RingReader(writer.ring)
    with pytest.raises(Gone):
        reader.read(told[0], SHAPE)
    references = [writer.write(filled(value)) for value in range(2, 2 + writer.slots)]
    assert {reference.slot for reference in references} == set(range(writer.slots))
    for value, reference in enumerate(references, 2):
        assert (reader.read(reference, SHAPE) == value).all()
    with pytest.raises(Gone):
        reader.read(told[0], SHAPE)


def test_a_reader_notified_early_waits_for_the_image(writer, monkeypatch):
    monkeypatch.setattr(shared_memory, "COPY_S", WAIT_S)  # however slow the machine is
    sent = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    reader = RingReader(writer.ring)
    got, is_reading = [], threading.Event()

    def read(reference):
        is_reading.set()
        got.append(reader.read(reference, SHAPE))

    def tell(reference):
        thread = threading.Thread(target=read, args=[reference])
        thread.start()
        is_reading.wait(WAIT_S)
        threads.append(thread)

    threads = []
    writer.write(sent, tell)
    threads[0].join(WAIT_S)
    np.testing.assert_array_equal(got[0], sent)


def test_an_image_larger_than_its_slot_is_gone(writer):
    reference = writer.write(filled(1))
    with pytest.raises(Gone, match="bytes"):
        RingReader(writer.ring).read(reference, (32_768, 32_768, 3))


def test_an_image_that_does_not_fit_is_not_written(writer):
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(np.zeros((100, 100, 3), np.uint8))


@pytest.mark.parametrize("ring", ["../../etc/passwd", "", "x", "1-0123456789abcdef/../x"])
def test_an_invalid_ring_id_opens_nothing(ring):
    with pytest.raises(Gone):
        RingReader(ring)


def test_a_link_or_another_file_is_refused(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(bytes(8192))
    ring = f"{os.getpid()}-{'0' * 16}"
    path = Path(ring_file.path_of(ring))
    try:
        path.symlink_to(target)
        with pytest.raises(Gone):
            RingReader(ring)
        path.unlink()
        path.write_bytes(b"visionrg" + b"\xff" * 100)
        with pytest.raises(Gone, match="another layout"):
            RingReader(ring)
    finally:
        path.unlink(missing_ok=True)


def test_a_full_shm_is_an_error_with_the_sizes():
    gc.collect()
    before = ring_files()
    with pytest.raises(RunError, match=r"[0-9.]+ MiB are needed and /dev/shm has [0-9.]+ MiB free"):
        RingWriter(1 << 44)
    assert ring_files() == before


@pytest.fixture
def files_left():
    """Limits the further files that this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []

    def leave(count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(count):
            os.close(fillers.pop())

    yield leave
    for filler in fillers:
        os.close(filler)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", range(MAX_LEASES + 2))
def test_too_few_file_descriptors_put_a_ring_out_of_reach(writer, files_left, count):
    reference = writer.write(filled(1))
    files_left(count)
    with pytest.raises(OutOfReach, match="Too many open files"):
        RingReader(writer.ring)
    files_left(MAX_LEASES + 2)
    assert (RingReader(writer.ring).read(reference, SHAPE) == 1).all()


def test_memory_that_runs_out_later_is_an_error_too(monkeypatch):
    def fail(fd, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(RunError, match="choose raw or jpeg"):
        RingWriter(1000)


def test_images_may_be_released_in_any_thread(writer):
    reader = RingReader(writer.ring)
    todo, lock, torn = [], threading.Condition(), []
    stop = object()

    def look():
        while True:
            with lock:
                lock.wait_for(lambda: todo, WAIT_S)
                item = todo.pop(0)
            if item is stop:
                return
            image, value = item
            if not (image == value).all():
                torn.append(value)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(600):
        with contextlib.suppress(NoFreeSlot):
            item = reader.read(writer.write(filled(value % 251)), SHAPE), value % 251
            with lock:
                todo.append(item)
                lock.notify()
            del item
    with lock:
        todo.extend([stop] * 3)
        lock.notify_all()
    for thread in threads:
        thread.join(WAIT_S)
    assert not torn
    gc.collect()
    assert len(reader._unused) == MAX_LEASES
