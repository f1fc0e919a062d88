"""Which network is chosen for a budget, and how its latency is measured and stored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest

from pipeline.errors import OutputError
from pipeline.zoo import candidates, latency
from pipeline.zoo.candidates import (
    TRAINED,
    Candidate,
    Choice,
    best_within,
    mark_frontier,
    measure_all,
)
from pipeline.zoo.latency import (
    LatencyCache,
    Machine,
    Measurement,
    this_machine,
    time_calls,
)

MACHINE = Machine("a processor", "1.17", 2, "code")


def candidate(name, rank, group=""):
    return Candidate(name, "family", lambda: None, lambda int8: None, rank, rank, group=group)


def choice(name, latency_ms, rank, group=""):
    return Choice(candidate(name, rank, group), Measurement(latency_ms, 1, 1, 1))


def names(choices):
    return [c.candidate.name for c in choices]


@pytest.fixture
def measured(monkeypatch):
    """The latencies that `measure` returns in order, and the measured names."""
    times, asked = [], []

    def measure(model, spec, threads):
        asked.append(spec)
        return Measurement(times.pop(0), 1, 2, 3)

    monkeypatch.setattr(candidates, "measure", measure)
    monkeypatch.setattr(candidates, "warn_if_busy", lambda: None)
    return times, asked


def quiet(job, done, total):
    assert 0 <= done <= total


def test_frontier_contains_members_more_accurate_than_all_faster_ones():
    marked = mark_frontier(
        [choice("slow", 9, 70), choice("fast", 1, 50), choice("beaten", 3, 60),
         choice("better", 3, 65), choice("worse", 5, 64), choice("equal", 4, 65)]
    )  # fmt: skip
    assert names(marked) == ["fast", "better", "beaten", "equal", "worse", "slow"]
    assert names(c for c in marked if c.on_frontier) == ["fast", "better", "slow"]


def test_groups_are_not_compared():
    choices = [choice("a1", 1, 5, "a"), choice("b1", 2, 3, "b"), choice("b2", 3, 4, "b")]
    assert all(c.on_frontier for c in mark_frontier(choices))
    assert {g: c.candidate.name for g, c in best_within(choices, 2.0).items()} == {
        "a": "a1", "b": "b1"
    }  # fmt: skip


def test_best_within_a_budget_is_the_most_accurate_one_that_fits():
    choices = [choice("fast", 1, 50), choice("good", 2, 60), choice("best", 2.001, 70)]
    assert best_within(choices, 2.0)[""].candidate.name == "good"
    assert best_within(choices, 0.9) == {}


def test_each_is_measured_twice_and_the_shorter_time_counts(measured, tmp_path):
    times, asked = measured
    times += [5.0, 1.0, 3.0, 2.0]
    cache = LatencyCache(MACHINE, tmp_path)
    two = [candidate("a", 1), candidate("b", 2)]
    found = measure_all(two, cache, threads=2, int8=True, report=quiet)
    assert {c.candidate.name: c.measured.latency_ms for c in found} == {"a": 3.0, "b": 1.0}

    again = LatencyCache(MACHINE, tmp_path)
    again.load()
    assert measure_all(two, again, threads=2, int8=True, report=quiet) == found
    assert len(asked) == 4
    times += [7.0, 7.0]
    measure_all(two[:1], again, threads=2, int8=False, report=quiet)  # not measured yet
    assert len(asked) == 6


def test_fresh_measures_again_and_keeps_other_measurements(measured, tmp_path):
    times, _ = measured
    cache = LatencyCache(MACHINE, tmp_path)
    cache.put("a int8", Measurement(1.0, 2, 3, 4))
    cache.put("b int8", Measurement(9.0, 2, 3, 4))
    times += [5.0, 6.0]
    only = [candidate("a", 1)]
    found = measure_all(only, cache, threads=2, int8=True, fresh=True, report=quiet)
    assert found[0].measured.latency_ms == 5.0
    again = LatencyCache(MACHINE, tmp_path)
    again.load()
    assert (again.get("a int8").latency_ms, again.get("b int8").latency_ms) == (5.0, 9.0)


def test_slow_machine_measures_once(measured, tmp_path):
    times, asked = measured
    times += [5.0, 1.0]
    ticks = iter((0.0, 91.0))
    measure_all(
        [candidate("a", 1), candidate("b", 2)], LatencyCache(MACHINE, tmp_path),
        threads=1, int8=False, report=quiet, clock=lambda: next(ticks),
    )  # fmt: skip
    assert len(asked) == 2


def test_measurements_before_an_interruption_are_stored(measured, tmp_path):
    times, _ = measured
    times += [5.0]  # the second call fails
    cache = LatencyCache(MACHINE, tmp_path)
    with pytest.raises(IndexError):
        measure_all(
            [candidate("a", 1), candidate("b", 2)], cache, threads=1, int8=False, report=quiet
        )
    again = LatencyCache(MACHINE, tmp_path)
    again.load()
    assert again.get("a float").latency_ms == 5.0
    assert [path.name for path in tmp_path.iterdir()] == [cache.path.name]


@pytest.mark.parametrize(
    "machine",
    [
        Machine("another processor", "1.17", 2, "code"),
        Machine("a processor", "1.18", 2, "code"),
        Machine("a processor", "1.17", 1, "code"),
        Machine("a processor", "1.17", 2, "changed"),
    ],
    ids=["processor", "onnxruntime", "threads", "code"],
)
def test_measurements_are_not_shared_between_machines(machine, tmp_path):
    cache = LatencyCache(MACHINE, tmp_path)
    cache.put("a", Measurement(1.0, 2, 3, 4))
    other = LatencyCache(machine, tmp_path)
    other.load()
    assert other.get("a") is None
    other.path.write_bytes(cache.path.read_bytes())  # even under its file name
    other.load()
    assert other.get("a") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"machine": 3}', b"\xff\xfe"])
def test_damaged_cache_is_reported_and_replaced(content, tmp_path, caplog):
    cache = LatencyCache(MACHINE, tmp_path)
    cache.path.write_bytes(content)
    cache.load()
    assert "unusable, measuring again" in caplog.text
    cache.put("a", Measurement(1.0, 2, 3, 4))
    assert msgspec.json.decode(cache.path.read_bytes())["measurements"]["a"]["latency_ms"] == 1.0


def test_unwritable_cache_is_reported_once(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    cache = LatencyCache(MACHINE, tmp_path / "file")  # no folder
    for name in ("a", "b"):
        cache.put(name, Measurement(1.0, 2, 3, 4))
    assert cache.get("a") == cache.get("b")
    assert caplog.text.count("the next run measures again") == 1


def test_time_is_the_least_median_without_the_warm_up():
    durations = iter([9.0, 0.5, 0.5, 0.5, 0.1, 0.1, 0.3, 0.4, 0.4, 0.4])
    now = [0.0]

    def call():
        now[0] += next(durations)

    assert time_calls(call, lambda: now[0]) == pytest.approx(0.1)


def test_machine_depends_on_the_number_of_threads():
    assert this_machine(2) == this_machine(2)
    assert this_machine(2) != this_machine(1)


def test_changed_code_invalidates_measurements(monkeypatch, tmp_path):
    before = this_machine(1)
    (tmp_path / "cost.py").write_text("# another way to count")
    monkeypatch.setattr(latency.graphs, "__file__", str(tmp_path / "__init__.py"))
    assert this_machine(1) != before


@pytest.mark.parametrize(("percent", "says"), [(12.0, False), (63.0, True)], ids=["idle", "busy"])
def test_busy_processor_gives_a_warning(percent, says, monkeypatch, caplog):
    monkeypatch.setattr(latency.psutil, "cpu_percent", lambda interval: percent)
    latency.warn_if_busy()
    assert ("other programs use 63 % of the processor" in caplog.text) == says


def test_trained_members_are_in_the_registry():
    registry = Path(__file__).resolve().parents[2] / "models" / "registry.toml"
    members = {c.name: c for c in (*candidates.classifiers(), *candidates.detectors())}
    for name, model in TRAINED.items():
        assert members[name].trained == model
        assert f"[models.{model}]" in registry.read_text()


def test_full_temporary_folder_is_an_error(monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    (candidate,) = candidates.detectors((64,), (1,))
    with pytest.raises(OutputError, match=r"folder in /no/such/folder: cannot be created"):
        latency.measure(candidate.build(False), candidate.spec(), 1)


def test_reuse_of_times_of_a_busy_processor_gives_a_warning(
    measured, tmp_path, monkeypatch, caplog
):
    times, _ = measured
    times += [5.0, 5.0]
    monkeypatch.setattr(candidates, "warn_if_busy", lambda: True)
    measure_all(
        [candidate("a", 1)], LatencyCache(MACHINE, tmp_path), threads=1, int8=False, report=quiet
    )
    assert "measured while" not in caplog.text  # `warn_if_busy` has reported it
    again = LatencyCache(MACHINE, tmp_path)
    again.load()
    measure_all([candidate("a", 1)], again, threads=1, int8=False, report=quiet)
    assert "1 of these times are too long: other programs used the processor" in caplog.text
