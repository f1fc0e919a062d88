"""Kills camera, detector and viewer with kill -9, in turn and at random, again and again.

`python -m tests.faults.soak [--minutes 60] [--seed 1] [--size 640x360]` runs it for longer. The
other processes must continue: with fresh results, constant memory, and results again within
`RECOVERY_S` of the return of the killed one. An observer in this process reads both hops. At the
end all processes start once more and end in order; then every hop's counts must be equal.
`processes` lists what is retried.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.transport.shm import ring_file

from .observer import Ledger, Observer
from .processes import (
    IN_HAND,
    TRIES,
    Command,
    crowding,
    how_many_above,
    json_of,
    last_lines,
    wait_for,
)

FPS = 30
RECOVERY_S = 2.0
STALE_MS = 2000.0  # more than any queue holds; starting processes use the cores for a while
USUAL_MS = 1000.0
GROWTH_MB = 40.0
SHORTLY_S = 3.0
SETTLED_S = 7.0  # after this a process has allocated the memory that it needs
FATES = ("given", "superseded", "gone", "invalid", "repeated", "unread")


class Soak:
    """The three processes, a second viewer that is never killed, and the observers."""

    def __init__(self, folder: Path, seed: int, size: str) -> None:
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._frames_at = f"zmq+ipc://{folder}/frames"
        self._results_at = f"zmq+ipc://{folder}/results"
        self._size = size
        self._all: list[Command] = []
        self._memory: dict[Command, list[float]] = {}
        self._at_work_s: dict[Command, float] = {}  # since when
        self.running: dict[str, Command] = {}
        self.frames, self.results = Ledger(), Ledger()
        self.recoveries_s: list[float] = []
        self.late_s: list[float] = []  # those that were retried
        self.kills = 0

    # --- the processes ------------------------------------------------------------------------

    def start(self, name: str, *more: object) -> Command:
        arguments: dict[str, list[object]] = {
            "camera": [
                *("camera", f"scene:?size={self._size}", "--fps", FPS),
                *("--publish", self._frames_at),
            ],
            "detector": [
                *("detect", "--subscribe", self._frames_at, "--publish", self._results_at),
            ],
            "viewer": ["view", "--subscribe", self._results_at],
            "survivor": ["view", "--subscribe", self._results_at],
        }
        if name in {"viewer", "survivor"}:
            more = (*more, "--jsonl", self.file(name, "jsonl"))
        self.file(name, "json").unlink(missing_ok=True)
        command = Command(
            *arguments[name], *more, "--stats", self.file(name, "json"), folder=self._folder
        )
        self._all.append(command)
        self.running[name] = command
        return command

    def file(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def close(self) -> None:
        for command in self._all:
            command.kill()

    # --- the soak -----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Kill in turn for a third of the time, then at random."""
        observers = [
            Observer(self._frames_at, self.frames.check),
            Observer(self._results_at, self.results.check, frames=False, results=True),
        ]
        for name in ("viewer", "survivor", "detector", "camera"):  # in reverse order
            self.start(name)
        self._await_recovery(["camera", "detector", "viewer"])
        begin = time.monotonic()
        turn = 0
        while (elapsed := time.monotonic() - begin) < seconds:
            if elapsed < seconds / 3:
                victims = [("camera", "detector", "viewer")[turn % 3]]
                turn += 1
            else:
                victims = self._random.sample(
                    ["camera", "detector", "viewer"], self._random.choice([1, 1, 1, 2, 3])
                )
            took_s = [self._recovery_s(victims)]
            if took_s[0] >= RECOVERY_S:
                self.late_s.append(took_s[0])
            while min(took_s) >= RECOVERY_S and len(took_s) < TRIES:
                took_s.append(self._recovery_s(victims))
            self.recoveries_s.append(min(took_s))
            self._let_run(self._random.uniform(0.5, 4.0))
        for observer in observers:
            observer.close()

    def _recovery_s(self, victims: list[str]) -> float:
        """Seconds until results come after a kill, scaled to an idle machine."""
        took_s = self._kill_and_restart(victims)
        return took_s if took_s < RECOVERY_S else took_s / self._crowding()

    def _kill_and_restart(self, victims: list[str]) -> float:
        """Kill and restart them; the seconds until results came, once all were back."""
        for name in victims:
            self._kill(name)
        for name in victims:
            self.start(name)
        if self._random.random() < 0.2:  # once more while it starts
            time.sleep(self._random.uniform(0, 1))
            self._kill(victims[0])
            self.start(victims[0])
        return self._await_recovery(victims)

    def _kill(self, name: str) -> None:
        command = self.running[name]
        assert command.is_alive, f"{name} ended by itself: {command.said}"
        command.kill()
        self.kills += 1

    def _crowding(self) -> float:
        """How much slower other processes make this machine; see `crowding`."""
        processes = [command.process for command in self.running.values()]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            return crowding()
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def _await_recovery(self, names: list[str]) -> float:
        """Wait until the results on new frames arrive, by way of those that came back."""
        took_s = 0.0
        back = [self.running[name].await_ready() for name in names if name != "viewer"]
        if back:
            since_s, since_ns = max(back), time.time_ns()
            wait_for(lambda: self.results.has_newer(since_ns), f"a result after {names} came back")
            took_s = time.monotonic() - since_s
        if "viewer" in names:
            since_ns = time.time_ns()
            wait_for(lambda: self._newest_shown("viewer") > since_ns, "a result at the new viewer")
        return took_s

    def stop_viewer(self, seconds: float) -> tuple[list[float], list[float]]:
        """Stop the viewer (SIGSTOP) for `seconds`.

        Returns the results per second at the others shortly before, meanwhile and shortly
        afterwards, and the ages in ms of the first that the viewer shows afterwards.
        """
        for name in ("viewer", "survivor", "detector", "camera"):
            self.start(name)
        for name in ("viewer", "survivor"):
            wait_for(lambda name=name: len(self._shown(name)) > 10, f"results at the {name}")
        viewer = self.running["viewer"].process

        meanwhile: list[dict[str, Any]] = []

        def rate_for(span_s: float) -> float:
            """The results per second at the survivor; they are stored in `meanwhile`."""
            had, since_s = len(self._shown("survivor")), time.monotonic()
            time.sleep(span_s)
            span_s = time.monotonic() - since_s
            meanwhile[:] = self._shown("survivor")[had:]
            return len(meanwhile) / span_s

        rates = [rate_for(SHORTLY_S)]
        viewer.send_signal(signal.SIGSTOP)
        had = len(self._shown("viewer"))
        rates.append(rate_for(seconds))
        ages_ms = [line["age_ms"] for line in meanwhile]
        viewer.send_signal(signal.SIGCONT)
        wait_for(lambda: len(self._shown("viewer")) > had + 10, "results after SIGCONT")
        first_ms = [line["age_ms"] for line in self._shown("viewer")[had : had + 10]]
        rates.append(rate_for(SHORTLY_S))
        assert how_many_above(STALE_MS * self._crowding(), ages_ms) <= IN_HAND, ages_ms
        return rates, first_ms

    def _newest_shown(self, name: str) -> int:
        return max((line["stamp_ns"] for line in last_lines(self.file(name, "jsonl"))), default=0)

    def _let_run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            for command in self.running.values():
                if now - self._at_work_s.setdefault(command, now) > SETTLED_S:
                    self._memory.setdefault(command, []).append(command.rss_mb())
            time.sleep(min(0.5, max(until - now, 0)))

    # --- what must hold -----------------------------------------------------------------------

    def growth_mb(self) -> float:
        """The largest growth of a process after it had settled; 0 if none lived that long."""
        return max((max(rss) - rss[0] for rss in self._memory.values()), default=0.0)

    def check(self) -> None:
        survivor = self.running["survivor"]
        assert survivor.is_alive, survivor.said
        assert "Traceback" not in "".join(command.said for command in self._all)
        assert max(self.recoveries_s) < RECOVERY_S, (self.recoveries_s, self.late_s)
        assert len(self.late_s) <= len(self.recoveries_s) / 4, (self.recoveries_s, self.late_s)
        assert self.growth_mb() < GROWTH_MB
        times = self._crowding()
        for name, ages_ms in (("frames", self.frames.ages_ms), ("results", self.results.ages_ms)):
            assert how_many_above(STALE_MS * times, ages_ms) <= IN_HAND, (name, max(ages_ms), times)
            assert percentile(ages_ms, 95) < USUAL_MS * times, (name, percentile(ages_ms, 95))
        shown = self._shown("survivor")
        ages_ms = [line["age_ms"] for line in shown]
        assert how_many_above(STALE_MS * times, ages_ms) <= IN_HAND, (max(ages_ms), times)
        assert len({line["stamp_ns"] for line in shown}) == len(shown)
        assert len(shown) > 0.8 * self.results.seen  # it ran all the time, as the observers did

    def _shown(self, name: str) -> list[dict[str, Any]]:
        return last_lines(self.file(name, "jsonl"), 1 << 30)

    def account(self, seconds: float = 4.0) -> None:
        """Start all processes once more, end them in order, and compare the counts of every hop.

        Each waits for the next one's subscription, so that nothing is sent before.
        """
        for name in tuple(self.running):
            self.running.pop(name).kill()
        self.file("viewer", "jsonl").unlink(missing_ok=True)
        self.start("viewer")
        self.start("detector", "--await-subscriber")
        self.start("camera", "--await-subscriber")
        wait_for(lambda: self._shown("viewer"), "a result at the last viewer")
        time.sleep(seconds)
        camera, detector, viewer = map(self._end, ("camera", "detector", "viewer"))
        check_hop(camera, detector, "frame/scene")
        check_hop(detector, viewer, "result/scene")

    def _end(self, name: str) -> dict[str, Any]:
        """End a process in order; returns its statistics."""
        assert self.running[name].end() == 0, self.running[name].said
        return json_of(self.file(name, "json"))

    def leftovers(self) -> list[str]:
        """The rings in shared memory that any of the processes has left."""
        ours = tuple(f"{ring_file.PREFIX}{one.process.pid}-" for one in self._all)
        return [
            path.name for path in Path(ring_file.FOLDER).iterdir() if path.name.startswith(ours)
        ]

    def summary(self) -> str:
        return (
            f"{self.kills} kills; {self.frames.seen} frames of {len(self.frames.news)} cameras; "
            f"{self.results.seen} results of {len(self.results.news)} detectors; age p50 "
            f"{percentile(self.results.ages_ms, 50):.0f} ms, p99 "
            f"{percentile(self.results.ages_ms, 99):.0f}, max {max(self.results.ages_ms):.0f}; "
            f"back within {max(self.recoveries_s):.2f} s, {len(self.late_s)} retried; "
            f"memory grew by {self.growth_mb():.1f} MB"
        )


def check_hop(sender: dict[str, Any], receiver: dict[str, Any], topic: str) -> None:
    """Every message sent was received or lost, and every received one is counted once more."""
    for stats in (sender, receiver):
        assert stats["captured"] == stats["processed"] + stats["dropped"] + stats["failed"]
    sent, received = sender["sent"][topic], receiver["received"][topic]
    assert sender["processed"] == sent["sent"] + sent.get("unwanted", 0)
    assert sent["sent"] == received["received"] + received.get("lost", 0)
    assert received["received"] == sum(received.get(fate, 0) for fate in FATES)
    assert received["given"] == receiver["captured"]


def percentile(values: list[float], of_100: int) -> float:
    return sorted(values)[min(len(values) * of_100 // 100, len(values) - 1)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", default="640x360", help="of the images")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed, options.size)
        try:
            soak.run(options.minutes * 60)
            print(soak.summary(), flush=True)  # noqa: T201 - what it was run for
            soak.check()
            soak.account()
        finally:
            soak.close()
        assert not soak.leftovers()


if __name__ == "__main__":
    main(sys.argv[1:])
