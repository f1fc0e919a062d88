"""Messages: valid ones are read, and all others are refused."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.source import check_camera_name
from pipeline.transport.wire import messages as wire
from pipeline.transport.wire import results as wire_result
from pipeline.transport.wire import schema
from pipeline.transport.wire.frames import frame_of
from pipeline.transport.wire.schema import FrameHeader, Limits, ResultHeader, WireError
from pipeline.types import Classifications, Detections, Header, Result

LIMITS = Limits(max_frame_mb=1)


def fields(**changes):
    """The fields of a valid frame header of a 3 x 2 image, with changes."""
    good = {
        "version": schema.VERSION,
        "sender": 7,
        "count": 0,
        "camera": "front",
        "seq": 5,
        "stamp_ns": 1_700_000_000_000_000_000,
        "sent_ns": 1_700_000_000_000_000_100,
        "steady_ns": 100,
        "clock_port": 0,
        "clock_offset_ns": -5,
        "clock_error_ns": 3,
        "width": 3,
        "height": 2,
        "kind": "raw",
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def plane(**changes):
    """A depth plane of a 3 x 2 image, with changes."""
    return {"name": "depth", "dtype": "float32", "shape": [2, 3], "unit": "m", **changes}


def message(payload=bytes(18), topic=b"frame/front", **changes):
    return [topic, msgspec.msgpack.encode(fields(**changes)), payload]


def refused(parts, limits=LIMITS):
    with pytest.raises(WireError) as caught:
        wire.decode(parts, limits)
    return caught.value


def result(n=2, top=3, seed=0):
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 64, (n, 2, 2)), axis=1)
    detections = Detections(
        corners.reshape(n, 4).astype(np.float32),
        random.random(n, np.float32),
        random.integers(0, 80, n, dtype=np.int32),
        [f"thing {i}" for i in range(80)],
        random.integers(-1, 2**40, n),
    )
    named = None
    if top is not None:
        ids, scores = random.integers(0, 1000, (n, top), np.int32), random.random((n, top))
        named = Classifications(ids, scores.astype(np.float32), [f"kind {i}" for i in range(1000)])
    times = {"detect": 1_500_000, "classify": 20}
    return Result(Header("front", 9, 77, 64, 64), detections, named, times)


def result_parts(given_result):
    header = given_result.header
    envelope = fields(
        camera=header.camera, seq=header.seq, width=header.width, height=header.height, kind=...
    )
    envelope["stamp_ns"] = header.stamp_ns
    struct = ResultHeader(**envelope, **wire_result.result_fields(given_result))
    return [b"result/front", wire.encode(struct), wire_result.result_payload(given_result)]


def test_a_frame_comes_back_as_it_was_sent():
    pixels = np.arange(18, dtype=np.uint8)
    got = wire.decode(message(pixels.tobytes()), LIMITS)
    assert got.header == msgspec.convert(fields(), FrameHeader)
    assert bytes(got.payload) == pixels.tobytes()


@pytest.mark.parametrize("top", [None, 0, 1, 5], ids=lambda top: f"top-{top}")
@pytest.mark.parametrize("n", [0, 1, 30], ids=lambda n: f"n-{n}")
def test_a_result_comes_back_as_it_was_sent(n, top):
    sent = result(n, top)
    got = wire_result.result_of(wire.decode(result_parts(sent), LIMITS))
    assert got.header == sent.header
    assert got.stage_ns == sent.stage_ns
    np.testing.assert_array_equal(got.detections.boxes, sent.detections.boxes)
    np.testing.assert_array_equal(got.detections.scores, sent.detections.scores)
    np.testing.assert_array_equal(got.detections.class_ids, sent.detections.class_ids)
    np.testing.assert_array_equal(got.detections.track_ids, sent.detections.track_ids)
    for i in sent.detections.class_ids:
        assert got.detections.labels[i] == sent.detections.labels[i]
    assert len(got.detections.labels) == 80
    if top is None:
        assert got.classifications is None
    else:
        np.testing.assert_array_equal(got.classifications.ids, sent.classifications.ids)
        np.testing.assert_array_equal(got.classifications.scores, sent.classifications.scores)
        for i in sent.classifications.ids.ravel():
            assert got.classifications.labels[i] == sent.classifications.labels[i]


@pytest.mark.parametrize("topic", [b"frame/front", b"result/front"])
def test_an_end_message_says_how_many_were_sent(topic):
    end = schema.EndHeader(version=2, sender=7, sent=30, camera="front")
    got = wire.decode([topic, wire.encode(end)], LIMITS)
    assert isinstance(got, wire.EndMessage)
    assert got.header == end
    assert refused([topic + b"_left", wire.encode(end)]).reason == "topic"


@pytest.mark.parametrize(
    "changes", [{"sent": -1}, {"sent": ...}, {"sender": 2**64 - 1}, {"camera": "../x"}], ids=str
)
def test_an_end_message_with_a_field_out_of_its_range_is_refused(changes):
    end = {"version": 2, "sender": 7, "sent": 30, "camera": "front", **changes}
    end = {name: value for name, value in end.items() if value is not ...}
    assert refused([b"frame/front", msgspec.msgpack.encode(end)]).reason == "header"


def test_missing_labels_are_numbered():
    labels = wire_result.SparseLabels(5, {3: "cup"})
    assert list(labels) == ["class 0", "class 1", "class 2", "cup", "class 4"]
    assert labels[-2] == "cup"
    assert labels[2:4] == ["class 2", "cup"]
    with pytest.raises(IndexError):
        labels[5]


@pytest.mark.parametrize(
    "changes",
    [
        {"camera": "../../etc/passwd"},
        {"camera": "front\n"},
        {"camera": "a" * 129},
        {"camera": ""},
        {"camera": b"front"},
        {"camera": ...},
        {"seq": -1},
        {"seq": 2**63},
        {"seq": 1.5},
        {"seq": True},
        {"stamp_ns": None},
        {"sent_ns": "now"},
        {"width": 0},
        {"width": 32_769},
        {"height": -2},
        {"clock_port": 65_536},
        {"clock_offset_ns": 2**63 - 1},
        {"kind": "pickle"},
        {"sender": 2**64 - 1},
        {"recorded": 1},
        {"read_ns": -1},
        {"planes": [plane()] * 9},
        {"planes": [plane(), plane()]},
        {"planes": [plane(name="../depth")]},
        {"planes": [plane(name="d" * 65)]},
        {"planes": [plane(dtype="object")]},
        {"planes": [plane(shape=[2])]},
        {"planes": [plane(shape=[2, 3, 1, 1])]},
        {"planes": [plane(shape=[3, 2])]},
        {"planes": [plane(shape=[2, 3, 0])]},
        {"planes": [plane(unit="mm")]},
        {"planes": [plane(encoding="zip")]},
    ],
    ids=str,
)
def test_a_field_out_of_its_range_is_refused(changes):
    assert refused(message(**changes)).reason == "header"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "parts"),
        ([b"frame/front"], "parts"),
        (message()[:2], "header"),
        ([*message(), b""], "parts"),
        (message(planes=[plane()]), "parts"),
        ([*message(planes=[plane()]), bytes(23)], "size"),
        ([*message(planes=[plane(shape=[2, 3, 32_768], dtype="float64", unit="")]), b""], "size"),
        ([*message(), *[b""] * 20], "parts"),
        (message(topic=b"frame/rear"), "topic"),
        (message(topic=b"frame/"), "topic"),
        (message(topic=b"result/front"), "header"),
        (message(topic=b""), "topic"),
        (message(topic=b"frame/" + b"x" * 1000), "topic"),
        (message(payload=bytes(17)), "size"),
        (message(payload=b""), "size"),
        (message(payload=bytes(2 << 20), kind="jpeg"), "size"),
        (message(payload=bytes(100), width=32_768, height=32_768), "size"),
        (message(payload=b"\x80", kind="shm"), "payload"),
        (message(payload=bytes(1000), kind="shm"), "size"),
        ([b"frame/front", bytes(100_000), b""], "header"),
        ([b"frame/front", b"", b""], "header"),
        ([b"frame/front", b"\xdf\xff\xff\xff\xff", b""], "header"),
        ([b"frame/front", b"\x82\xa7version\x01\xa1x" + b"\x91" * 4000, b""], "header"),
        ([b"frame/front", b"\x81\xa7versio\xff\x01", b""], "header"),
    ],
    ids=itertools.count(),
)
def test_a_message_in_another_form_is_refused(parts, reason):
    assert refused(parts).reason == reason


@pytest.mark.parametrize("ring", ["../x", "1-0123456789abcdeg", "/dev/mem", "1-0123456789abcdef\n"])
def test_a_reference_into_shared_memory_holds_no_path(ring):
    payload = msgspec.msgpack.encode({"ring": ring, "slot": 0, "generation": 2})
    assert refused(message(payload, kind="shm")).reason == "payload"


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_version_is_refused_and_both_versions_are_named(version):
    error = refused(message(version=version, something_new=[1, 2]))
    assert error.reason == "version"
    assert f"version {version} " in str(error)
    assert f"versions 1 to {schema.VERSION};" in str(error)
    assert "update the receiver" in str(error)


def test_unknown_fields_of_a_later_minor_version_are_ignored():
    got = wire.decode(message(tracks={"ids": [1]}, events=["enter"]), LIMITS)
    assert got.header == msgspec.convert(fields(), FrameHeader)


def test_parts_of_a_result_that_this_version_does_not_know_are_ignored():
    sent = result()
    got = wire_result.result_of(wire.decode([*result_parts(sent), b"positions"], LIMITS))
    np.testing.assert_array_equal(got.detections.boxes, sent.detections.boxes)


def test_a_recorded_frame_keeps_its_read_time_and_a_live_one_does_not():
    recorded = frame_of(wire.decode(message(recorded=True, read_ns=77), LIMITS), no_slot)
    assert (recorded.recorded, recorded.read_ns) == (True, 77)
    assert recorded.header.age_start_ns == 77
    live = frame_of(wire.decode(message(read_ns=77), LIMITS), no_slot)
    assert live.read_ns > 77
    assert live.header.age_start_ns == live.stamp_ns


def no_slot(reference, shape):
    raise AssertionError("nothing is in shared memory")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.boxes.__setitem__((0, 0), np.nan), "box"),
        (lambda d: d.boxes.__setitem__((0, 2), 64.5), "box"),
        (lambda d: d.boxes.__setitem__((0, 0), -np.inf), "box"),
        (lambda d: d.scores.__setitem__(0, np.nan), "score"),
        (lambda d: d.scores.__setitem__(0, 1.1), "score"),
        (lambda d: d.class_ids.__setitem__(0, 80), "class"),
        (lambda d: d.class_ids.__setitem__(0, -1), "class"),
        (lambda d: d.track_ids.__setitem__(0, -2), "track"),
    ],
    ids=["nan box", "box outside", "box at -inf", "nan score", "score", "class", "-1", "track"],
)
def test_values_out_of_range_are_refused_at_both_ends(change, text):
    sent = result()
    parts = result_parts(sent)
    change(sent.detections)
    with pytest.raises(WireError, match=text):
        wire_result.result_fields(sent)
    parts[2] = wire_result.result_payload(sent)
    with pytest.raises(WireError, match=text):
        wire_result.result_of(wire.decode(parts, LIMITS))


def test_a_claimed_gigabyte_allocates_no_memory():
    claims = [
        message(bytes(18), width=32_768, height=32_768),
        [b"result/front", b"\xdf\x7f\xff\xff\xff" + bytes(100), b""],
        [b"result/front", b"\x81\xa6labels\xdf\x7f\xff\xff\xff", b""],
        [b"frame/front", b"\x81\xa6camera\xdb\x7f\xff\xff\xffab", b""],
    ]
    tracemalloc.start()
    try:
        for parts in claims:
            refused(parts, Limits(max_frame_mb=32))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def tampered(draw, parts):
    """One of the ways in which a message may be damaged."""
    index = draw(st.integers(0, len(parts) - 1))
    part = bytearray(parts[index])
    how = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double"]))
    at = draw(st.integers(0, len(part)))
    if how == "flip" and at < len(part):
        part[at] ^= draw(st.integers(1, 255))
    elif how == "cut":
        del part[at:]
    elif how == "insert":
        part[at:at] = draw(st.binary(max_size=16))
    parts[index] = bytes(part)
    if how == "drop":
        del parts[index]
    elif how == "double":
        parts.insert(index, parts[index])
    return parts


@st.composite
def damaged_messages(draw):
    with_plane = [*message(planes=[plane()]), bytes(24)]
    end = [b"frame/front", msgspec.msgpack.encode(fields(sent=3))]
    kinds = [message(), with_plane, end, result_parts(result()), result_parts(result(0))]
    whole = draw(st.sampled_from(kinds))
    parts = list(whole)
    for _ in range(draw(st.integers(1, 3))):
        if parts:
            parts = tampered(draw, parts)
    return parts


def decode_all(parts):
    """Decode as far as it goes; anything but a `WireError` fails the test."""
    with contextlib.suppress(WireError):
        got = wire.decode(parts, LIMITS)
        if isinstance(got, wire.ResultMessage):
            wire_result.result_of(got)
        elif isinstance(got, wire.FrameMessage) and got.reference is None:
            frame_of(got, no_slot)


@given(damaged_messages())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_damage_is_refused_or_harmless(parts):
    decode_all(parts)


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(parts):
    decode_all(parts)


@given(
    st.sampled_from([b"frame/a", b"result/a"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats()
        | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*FrameHeader.__struct_fields__, "x"]), inner, max_size=9
            )
        ),
        max_leaves=20,
    ),
)
@settings(max_examples=200, deadline=None)
def test_other_structures_are_refused(topic, structure):
    decode_all([topic, msgspec.msgpack.encode(structure), b""])


@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z_/0-9]{1,20}\n?", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_messages_and_sources_accept_the_same_camera_names(name):
    try:
        check_camera_name(name)
        allowed = True
    except ConfigError:
        allowed = False
    got = True
    try:
        msgspec.convert(name, schema.Camera)
    except msgspec.ValidationError:
        got = False
    assert got == allowed
