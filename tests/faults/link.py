"""Two network namespaces and a link between them with loss, delay, a rate limit, or cut.

The link is a veth pair with the kernel's netem. Where the kernel has none it is a pair of TUN
devices with a thread between them that loses, delays and holds back packets by the same rules; the
ends are the same kernel's real TCP.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_INFO = 0x0001 | 0x1000
_MTU = 1500
_CONGESTION = "net.ipv4.tcp_congestion_control"
_QUEUE_S = 0.1  # bytes that wait at a link with a rate; further packets are dropped
_numbers = itertools.count()


@dataclass(frozen=True)
class Shape:
    """What a link does, each way: `loss` of 1, `delay_ms`, and `rate_mbit` a second or any."""

    loss: float = 0.0
    delay_ms: float = 0.0
    rate_mbit: float | None = None


class Unavailable(Exception):  # noqa: N818 - a reason to skip
    """Namespaces or devices are not available here."""


def run(*arguments: object) -> None:
    """Run a command of iproute2.

    Raises `Unavailable` if it is not installed, not permitted or not supported.
    """
    command = [str(argument) for argument in arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError as error:
        raise Unavailable("iproute2 is not installed") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")


def takes_loss_for_a_full_link(namespace: str) -> bool:
    """Whether TCP there slows down at every loss, as all but BBR (N. Cardwell et al., 2016)."""
    command = ["ip", "netns", "exec", namespace, "sysctl", "-n", _CONGESTION]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() != "bbr"


class Namespaces:
    """Makes namespaces and links between them; leaving deletes them all."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._links: list[Link] = []

    def add(self) -> str:
        """A new namespace; its name."""
        name = f"v{os.getpid()}n{next(_numbers)}"
        run("ip", "netns", "add", name)
        self._names.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        with contextlib.suppress(Unavailable):  # not every kernel has it or permits the choice
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"{_CONGESTION}=bbr")
        return name

    def join(self, near: str, shape: Shape) -> Link:
        """A link from `near` to a new namespace."""
        link = Link(near, self.add(), len(self._links), shape)
        self._links.append(link)
        link.open()
        return link

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *reason: object) -> None:
        for link in self._links:
            link.close()
        for name in self._names:
            run("ip", "netns", "del", name)


class Link:
    """Between the namespaces `near` and `far`, which have the addresses of those names."""

    def __init__(self, near: str, far: str, number: int, shape: Shape) -> None:
        self.near, self.far = near, far
        self.near_address, self.far_address = f"10.77.{number}.1", f"10.77.{number}.2"
        self._device = f"link{number}"
        self._shape = shape
        self._relay: Relay | None = None

    def open(self) -> None:
        if not self._join_by_veth():
            self._join_by_relay()
        near, far = (self.near, self.near_address), (self.far, self.far_address)
        for (end, address), (_, peer) in ((near, far), (far, near)):
            run("ip", "-n", end, "addr", "add", address, "peer", peer, "dev", self._device)
            run("ip", "-n", end, "link", "set", self._device, "mtu", _MTU, "up")

    def cut(self) -> None:
        """Pull the cable: nothing gets through, and neither end is notified."""
        self._set(CUT)

    def restore(self) -> None:
        """Plug the cable in again."""
        self._set(self._shape)

    def close(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    def _set(self, shape: Shape) -> None:
        if self._relay is not None:
            self._relay.shape = shape
            return
        for end in (self.near, self.far):
            run("tc", "-n", end, "qdisc", "replace", "dev", self._device, "root", *_netem(shape))

    def _join_by_veth(self) -> bool:
        far = ("peer", "name", self._device, "netns", self.far)
        run("ip", "-n", self.near, "link", "add", self._device, "type", "veth", *far)
        try:
            self._set(self._shape)
        except Unavailable:  # a kernel without netem
            run("ip", "-n", self.near, "link", "del", self._device)
            return False
        return True

    def _join_by_relay(self) -> None:
        files = []
        for number, end in enumerate((self.near, self.far)):
            name = f"v{os.getpid()}{self._device[4:]}{'nf'[number]}"
            files.append(_tun(name))
            run("ip", "link", "set", name, "netns", end)
            run("ip", "-n", end, "link", "set", name, "name", self._device)
        self._relay = Relay(files, self._shape)


CUT = Shape(loss=1.0)


def _netem(shape: Shape) -> list[object]:
    limit = 1000 if shape.rate_mbit is None else int(shape.rate_mbit * 1e6 * _QUEUE_S / 8 / _MTU)
    rules: list[object] = ["netem", "limit", limit, "loss", f"{shape.loss:.0%}"]
    if shape.delay_ms:
        rules += ["delay", f"{shape.delay_ms:g}ms"]
    return rules if shape.rate_mbit is None else [*rules, "rate", f"{shape.rate_mbit:g}mbit"]


def _tun(name: str) -> int:
    try:
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"no netem and no /dev/net/tun: {error.strerror}") from error
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN_WITHOUT_INFO)
        fcntl.ioctl(file, _TUNSETIFF, request)
    except OSError as error:
        os.close(file)
        raise Unavailable(f"no TUN device: {error.strerror}") from error
    return file


class Relay:
    """Passes packets between two TUN devices by the rules of a shape, in its own thread."""

    def __init__(self, files: list[int], shape: Shape) -> None:
        self.shape = shape
        self._files = files
        self._random = random.Random(0)  # noqa: S311 - not for secrets
        # Per direction: packets with the time when they are due, and when the line is free again.
        self._waiting: list[collections.deque[tuple[float, bytes]]] = [
            collections.deque(),
            collections.deque(),
        ]
        self._free_s = [0.0, 0.0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for file in self._files:
            os.close(file)

    def _run(self) -> None:
        while not self._stop.is_set():
            due_s = min((queue[0][0] for queue in self._waiting if queue), default=float("inf"))
            wait_s = min(max(due_s - time.monotonic(), 0.0), 0.05)
            for file in select.select(self._files, [], [], wait_s)[0]:
                self._take(self._files.index(file))
            self._pass_on()

    def _take(self, way: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                packet = os.read(self._files[way], 65536)
                if self._random.random() >= self.shape.loss:
                    self._enqueue(way, packet)

    def _enqueue(self, way: int, packet: bytes) -> None:
        now_s = start_s = time.monotonic()
        if self.shape.rate_mbit is not None:
            start_s = max(now_s, self._free_s[way])
            if start_s - now_s > _QUEUE_S:
                return
            start_s += len(packet) * 8 / (self.shape.rate_mbit * 1e6)
            self._free_s[way] = start_s
        self._waiting[way].append((start_s + self.shape.delay_ms / 1e3, packet))

    def _pass_on(self) -> None:
        for way, queue in enumerate(self._waiting):
            while queue and queue[0][0] <= time.monotonic():
                packet = queue.popleft()[1]
                with contextlib.suppress(OSError):  # a full device drops it, as a real one does
                    os.write(self._files[1 - way], packet)
