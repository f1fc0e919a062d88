"""Pairs of processes that send and receive images, kept alive to take turns in short rounds."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from pipeline.errors import RunError

ROOT = Path(__file__).resolve().parents[2]
PEERS = "benchmarks.transport.peers"
START_S = 60
END_S = 10


@dataclass
class Round:
    """One turn: the latencies in ms, and the numbers of images that arrived and were sent."""

    latency_ms: np.ndarray
    received_fps: float
    sent_fps: float
    cpu_ms: float
    """Processor time of the sending process, per image."""


@dataclass
class Link:
    """One sender and its receivers."""

    sender: Connection
    receivers: list[Connection] = field(default_factory=list)

    def turn(self, fps: float, seconds: float) -> Round:
        """Send at a rate, 0 for as fast as possible; only images that arrive in that time count."""
        self.sender.send(("send", fps, seconds))
        sent = self.sender.recv()
        for receiver in self.receivers:
            receiver.send("report")
        arrived = [receiver.recv() for receiver in self.receivers]
        start_ns, end_ns = sent["start_ns"], sent["end_ns"]
        times = np.array(
            [t for ts in arrived for t in ts if start_ns <= t[0] and t[1] <= end_ns], np.int64
        ).reshape(-1, 2)
        took_s = (end_ns - start_ns) / 1e9
        return Round(
            (times[:, 1] - times[:, 0]) / 1e6,
            len(times) / took_s / len(self.receivers),
            sent["sent"] / took_s,
            sent["cpu_s"] / sent["sent"] * 1e3,
        )

    def copies_ms(self, fps: float, seconds: float) -> np.ndarray:
        """The time of bare copies of an image in the sending process, at the same rate."""
        self.sender.send(("copy", fps, seconds))
        return np.array(self.sender.recv()) / 1e6


class LinkError(RunError):
    """A transport that is not available here."""


@contextlib.contextmanager
def link(way: str, folder: Path, receivers: int = 1) -> Iterator[Link]:
    """Start the processes of a transport and connect them.

    Raises `LinkError` if they do not start.
    """
    module = {"imagezmq": "imagezmq", "dora": "dora"}.get(way.split(maxsplit=1)[0])
    if module and importlib.util.find_spec(module) is None:
        raise LinkError(f"{module} is not installed")
    control = str(folder / f"control-{len(list(folder.iterdir()))}")
    address = _address(way, folder)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(control)
        listener.listen(1 + receivers)
        listener.settimeout(START_S)
        if way == "dora":
            stack.enter_context(_dora(control, folder))
        else:
            for role in ["send", *["receive"] * receivers]:
                command = [sys.executable, "-m", PEERS, role, way, address, control]
                stack.enter_context(_running(command))
        peers = [_accept(listener, stack, way) for _ in range(1 + receivers)]
        sender = next(peer for role, peer in peers if role == "send")
        made = Link(sender, [peer for role, peer in peers if role == "receive"])
        deadline_s = time.monotonic() + START_S
        while made.turn(100, 0.3).received_fps < 10:
            if time.monotonic() > deadline_s:
                raise LinkError(f"{way}: nothing arrives")
        yield made


def _accept(
    listener: socket.socket, stack: contextlib.ExitStack, way: str
) -> tuple[str, Connection]:
    try:
        connected, _ = listener.accept()
    except TimeoutError as error:
        raise LinkError(f"{way}: its processes did not start") from error
    connected.setblocking(True)
    peer = stack.enter_context(Connection(connected.detach()))
    return peer.recv()[0], peer


@contextlib.contextmanager
def _running(command: list[str], **options: Any) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=ROOT, **options)
    try:
        yield
    finally:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _dora(control: str, folder: Path) -> contextlib.AbstractContextManager[None]:
    nodes = "".join(
        f"  - id: {role}\n    path: {sys.executable}\n"
        f"    args: -m {PEERS} {role} dora - {control}\n    env: {{PYTHONPATH: {ROOT}}}\n{io}\n"
        for role, io in (
            ("send", "    outputs: [image]"),
            ("receive", "    inputs: {image: {source: send/image, queue_size: 1}}"),
        )
    )
    flow = folder / "dora.yml"
    flow.write_text(f"nodes:\n{nodes}")
    command = [str(Path(sys.executable).parent / "dora"), "run", str(flow)]
    return _running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _address(way: str, folder: Path) -> str:
    path = folder / f"socket-{len(list(folder.iterdir()))}"
    if way == "jpeg":
        return f"zmq+tcp://127.0.0.1:{_free_port()}"
    if "JPEG" in way:
        return f"tcp://127.0.0.1:{_free_port()}"
    return f"ipc://{path}" if "imagezmq" in way else f"zmq+ipc://{path}"


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SOURCE = "scene:?size=1280x720&fps=60"
"""Faster than the detector, so that the detector limits the rate; both drop frames."""
CHAIN_START_S = 15
CHAIN_END_S = 20


def process_figure(folder: Path, rounds: int, seconds: float) -> Figure:
    """Results per second at the viewer over those of the single process."""
    ratios, three, single = [], [], []
    for _ in range(rounds):
        single.append(run_single(folder, seconds))
        three.append(run_three(folder, seconds))
        ratios.append(three[-1] / single[-1])
    return Figure(
        "camera, detector and viewer in three processes / in one",
        float(np.median(ratios)),
        "x",
        0.9,
        detail=f"{np.median(three):.1f} against {np.median(single):.1f} results/s, "
        f"ratios {min(ratios):.2f} to {max(ratios):.2f}",
    )


def run_single(folder: Path, seconds: float) -> float:
    found = folder / "single.jsonl"
    _run("run", SOURCE, "--jsonl", str(found), "--duration", f"{seconds:g}").wait()
    return _rate(found, seconds)


def run_three(folder: Path, seconds: float) -> float:
    frames, results = f"zmq+ipc://{folder}/frames", f"zmq+ipc://{folder}/results"
    found = folder / "three.jsonl"
    view = [
        "--subscribe",
        results,
        "--jsonl",
        str(found),
        "--duration",
        f"{seconds + CHAIN_START_S:g}",
    ]
    processes = [
        _run("detect", "--subscribe", frames, "--publish", results),
        _run("camera", SOURCE, "--publish", frames),
        _run("view", *view),
    ]
    processes[-1].wait()
    for process in processes[:-1]:
        process.send_signal(signal.SIGINT)
    for process in processes[:-1]:
        process.wait(CHAIN_END_S)
    return _rate(found, seconds)


def _run(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pipeline.cli", *arguments, "-q"], cwd=ROOT)


def _rate(found: Path, seconds: float) -> float:
    """Results per second by the frames' stamps, over the last half of the run."""
    lines = found.read_text().splitlines()
    stamps = np.array([json.loads(line)["stamp_ns"] for line in lines]) / 1e9
    end_s = stamps.max()
    found.unlink()
    return float((stamps > end_s - seconds / 2).sum() / (seconds / 2))
