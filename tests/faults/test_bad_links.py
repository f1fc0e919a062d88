"""A camera and its viewers on links that lose, delay, hold back, or are cut for a while."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time

import pytest

from .link import Link, Namespaces, Shape, Unavailable, takes_loss_for_a_full_link
from .processes import ROOT, TRIES, WAIT_S, Command, json_of, wait_for

FPS = 30
PORT = 5555
OUTAGE_S = 5.0
RECOVERY_S = 2.0
MUCH_LOSS = 0.05  # then only BBR keeps ages low: other TCP stalls for seconds
SHAPES = {
    "good": Shape(),
    "loss-1%": Shape(loss=0.01),
    "loss-10%": Shape(loss=0.1),
    "delay-100ms": Shape(delay_ms=100),
    "cut-5s": Shape(),
}


class Viewer:
    """A receiver at the far end of a link, and its output."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: list[dict] = []
        self.counts: dict = {}
        program = str(ROOT / "tests" / "faults" / "receiver.py")
        address = f"zmq+tcp://{link.near_address}:{PORT}"
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", link.far, sys.executable, program, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            if "seq" in said:
                self.frames.append(said)
            self.counts = said.get("counts", self.counts)

    def since(self, at_s: float) -> list[dict]:
        return [frame for frame in self.frames if frame["at_s"] > at_s]

    def ages_ms(self, since_s: float = 0.0) -> list[float]:
        return sorted(frame["true_age_ms"] for frame in self.since(since_s))

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._listener.join(WAIT_S)


class Scenario:
    """One camera in the middle and a viewer at the end of each link."""

    def __init__(self, folder, shapes, size, quality=85):
        self.stack = contextlib.ExitStack()
        with self.stack:
            network = self.stack.enter_context(Namespaces())
            hub = network.add()
            self.slows_at_loss = takes_loss_for_a_full_link(hub)
            self.stats = folder / "camera.json"
            self.camera = Command(
                *("camera", f"scene:?size={size}", "--fps", FPS, "--quality", quality),
                *("--publish", f"zmq+tcp://*:{PORT}", "--insecure", "--stats", self.stats),
                folder=folder,
                prefix=("ip", "netns", "exec", hub),
            )
            self.stack.callback(self.camera.kill)
            self.viewers = {name: Viewer(network.join(hub, s)) for name, s in shapes.items()}
            for viewer in self.viewers.values():
                self.stack.callback(viewer.end)
            self.stack = self.stack.pop_all()

    def await_all(self):
        """Wait until every viewer gets fresh frames; returns the time."""
        for name, viewer in self.viewers.items():
            wait_for(lambda viewer=viewer: len(viewer.frames) > 10, f"ten frames over {name}")
        return time.monotonic()

    def end(self):
        """End all in order, the source first."""
        assert self.camera.end() == 0
        for viewer in self.viewers.values():
            viewer.end()


@pytest.fixture
def scenario(tmp_path):
    @contextlib.contextmanager
    def make(*arguments):
        try:
            made = Scenario(tmp_path, *arguments)
        except Unavailable as error:
            pytest.skip(str(error))
        with made.stack:
            yield made

    return make


def percentile(values, of_100):
    return values[min(len(values) * of_100 // 100, len(values) - 1)]


def report(capsys, name, viewer, since_s):
    ages = viewer.ages_ms(since_s)
    last = next(one for one in reversed(viewer.frames) if one["offset_ms"] is not None)
    with capsys.disabled():
        print(  # noqa: T201 - figures that a log should have
            f"\n{name}: {len(ages)} frames, age p50 {percentile(ages, 50):.0f} ms, p95 "
            f"{percentile(ages, 95):.0f}, max {ages[-1]:.0f}; clock {last['offset_ms']:.1f} "
            f"+- {last['error_ms']:.1f} ms; {viewer.counts}",
            end="",
        )


def tried(attempt):
    """Retry if results come too late or too old; a real fault fails every time."""
    for _ in range(TRIES):
        complaints = attempt()
        if not complaints:
            return
    pytest.fail(f"{TRIES} times, at last: {complaints}")


@pytest.mark.slow
def test_bad_links_lose_frames_but_stay_fresh_and_affect_no_other(scenario, capsys):
    def attempt():
        with scenario(SHAPES, "640x360") as scene:
            begin_s = scene.await_all()
            cut = scene.viewers["cut-5s"]
            cut.link.cut()
            time.sleep(OUTAGE_S)
            cut.link.restore()
            restored_s = time.monotonic()
            wait_for(lambda: cut.since(restored_s), "a frame after the cut")
            time.sleep(4.0)
            scene.end()
            seconds = time.monotonic() - begin_s
            for name, viewer in scene.viewers.items():
                report(capsys, name, viewer, begin_s)
                check_what_came(name, viewer)
            back_s = cut.since(restored_s)[0]["at_s"] - restored_s
            with capsys.disabled():
                print(f"\nback after {back_s:.2f} s")  # noqa: T201
            good = scene.viewers["good"]
            count = good.counts["frame/scene"]
            sent = json_of(scene.stats)["sent"]["frame/scene"]["sent"]
            assert count["received"] + count.get("lost", 0) <= sent
            hold = {
                "back soon": back_s < RECOVERY_S,
                "fresh when back": max(cut.ages_ms(restored_s)) < 1000,
                "others unaffected": len(good.ages_ms(begin_s)) > 0.8 * FPS * seconds,
                **{name: are_fresh(scene, name, begin_s) for name in scene.viewers},
            }
            return [what for what, holds in hold.items() if not holds]

    tried(attempt)


def check_what_came(name, viewer):
    """Check what holds on a machine of any speed."""
    delay_ms = SHAPES[name].delay_ms
    known = [frame for frame in viewer.frames if frame["offset_ms"] is not None]
    for frame in known:
        # Both ends have the same clock, so that the estimate can be checked.
        assert abs(frame["offset_ms"]) <= frame["error_ms"], name
        assert delay_ms <= frame["error_ms"], name
    assert known[-1]["error_ms"] < 1000 + delay_ms, name
    seqs = [frame["seq"] for frame in viewer.frames]
    assert seqs == sorted(set(seqs)), name


def are_fresh(scene, name, since_s):
    shape, ages = SHAPES[name], scene.viewers[name].ages_ms(since_s)
    if shape.loss >= MUCH_LOSS and scene.slows_at_loss:
        return True
    return percentile(ages, 95) < 700 + shape.delay_ms and ages[-1] < 3000 + shape.delay_ms


@pytest.mark.slow
@pytest.mark.parametrize("quality", [95, 50], ids=["too-much", "fitting"])
def test_a_slow_link_gets_fewer_and_fresh_frames(scenario, capsys, quality):
    def attempt():
        shapes = {"20mbit": Shape(rate_mbit=20, delay_ms=5)}
        with scenario(shapes, "1280x720", quality) as scene:
            begin_s = scene.await_all()
            time.sleep(6.0)
            scene.end()
            viewer = scene.viewers["20mbit"]
            report(capsys, f"20 Mbit/s at quality {quality}", viewer, begin_s + 1)
            ages = viewer.ages_ms(begin_s + 1)
            hold = {
                "enough": len(ages) > 5 * 5,
                "fresh": bool(ages) and percentile(ages, 95) < 700 and ages[-1] < 1500,
            }
            return [what for what, holds in hold.items() if not holds]

    tried(attempt)
