"""Memory of a ring that a writer draws in itself, so that sending copies nothing."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import NoFreeSlot, RingReader, RingWriter
from pipeline.transport.shm.ring_file import Gone

pytestmark = pytest.mark.skipif(
    not ring_file.is_available(), reason="rings in shared memory need Linux with /dev/shm"
)
SHAPE = (48, 64, 3)


def filled(value):
    return np.full(SHAPE, value, np.uint8)


def test_an_image_drawn_in_lent_memory_is_not_copied(writer):
    drawn = writer.lend(*SHAPE[:2])
    drawn[:] = 7
    reference = writer.write(drawn)
    got = RingReader(writer.ring).read(reference, SHAPE)
    assert (got == 7).all()
    drawn[0, 0] = 8
    assert (got[0, 0] == 8).all()  # the same memory


def test_lent_memory_is_not_written_over_while_anything_refers_to_it(writer):
    drawn = writer.lend(*SHAPE[:2])
    drawn[:] = 7
    corner = drawn[:10][:, :10]
    writer.write(drawn)
    del drawn
    for value in range(20):
        writer.write(filled(value))
    assert (corner == 7).all()
    del corner
    gc.collect()
    assert len({writer.write(filled(1)).slot for _ in range(writer.slots)}) == writer.slots


def test_readers_do_not_see_an_image_being_drawn(writer):
    first = [writer.write(filled(value)) for value in range(writer.slots)]
    drawn = writer.lend(*SHAPE[:2])
    with pytest.raises(Gone):
        RingReader(writer.ring).read(first[0], SHAPE)
    del drawn  # never sent
    gc.collect()
    assert writer.write(filled(1)).slot == 1
    assert {writer.write(filled(1)).slot for _ in range(4)} == {0, 1, 2, 3}


def test_a_part_of_lent_memory_is_sent_as_it_is(writer):
    drawn = writer.lend(*SHAPE[:2])
    drawn[:] = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    reader = RingReader(writer.ring)
    for part in (drawn[:, 5:20], drawn[3:9], drawn[:20]):
        got = reader.read(writer.write(part), part.shape)
        np.testing.assert_array_equal(got, part)


def test_lent_memory_outlives_its_ring():
    ring = RingWriter(int(np.prod(SHAPE)))
    drawn = ring.lend(*SHAPE[:2])
    ring.close()
    del ring
    gc.collect()
    drawn[:] = 7
    assert (drawn == 7).all()
    del drawn


def test_no_memory_is_lent_if_all_slots_are_in_use(writer):
    held = [writer.lend(*SHAPE[:2]) for _ in range(writer.slots)]
    with pytest.raises(NoFreeSlot):
        writer.lend(*SHAPE[:2])
    with pytest.raises(ValueError, match="do not fit"):
        writer.lend(1000, 1000)
    del held
