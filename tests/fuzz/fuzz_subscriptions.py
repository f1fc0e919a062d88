"""Fuzzing of what subscribers send to a publisher, against a model of libzmq's subscriptions.

`python tests/fuzz/fuzz_subscriptions.py [-runs=30000] [CORPUS]`. An input is a list of actions of
up to eight connections: send a message, or end. After each action, what the publisher has noted
must be what libzmq has in its sets, and what a group's member is given must be its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fuzzing

with fuzzing.instrument("pipeline.transport"):
    from pipeline.transport.zmq.subscriptions import Connection, Subscriptions, end_receipt
    from pipeline.transport.zmq.worker_groups import READY, WorkerGroups, ready_message

TOPIC = b"frame/front"
MEMBER = b"turn/g/0123456789abcdef/"
NO_STREAMS = (b"end/", b"client/")
SENDER = 7
WORDS = [
    *(
        b"client/0123456789abcdef",
        b"client/",
        b"",
        b"frame/",
        TOPIC,
        b"frame/front/",
        b"result/",
        b"turn/",
        b"end/",
    ),
    *(MEMBER + b"frame/", MEMBER + TOPIC, b"turn/h/0123456789abcdef/frame/"),
    end_receipt(SENDER, "0123456789abcdef", TOPIC),
]
END = 7  # the action that ends a connection


class Peer(Connection):
    """A connection, and whether it has ended."""

    ended = False


class Model:
    """A publisher's subscriptions, and beside them the sets that libzmq has per connection."""

    def __init__(self) -> None:
        self.knows_ends = True
        endpoint = SimpleNamespace(socket=None)
        self.noted = Subscriptions(endpoint, lambda prefix: None)
        self.noted.update = lambda: None
        self.noted._is_open = lambda peer: not (peer.ended and self.knows_ends)
        self.sets: dict[Peer, set[bytes]] = {}
        self.asked: set[tuple[str, bytes]] = set()
        self._opened = 0
        self._peers: dict[int, Peer] = {}

    def send(self, number: int, message: bytes) -> None:
        peer = self._peers.get(number)
        if peer is None:
            self._opened += 1
            peer = self._peers[number] = Peer(str(self._opened))
            self.sets[peer] = set()
        if message[:1] == b"\1":
            self.sets[peer].add(message[1:])
        elif message[:1] == b"\0":
            self.sets[peer].discard(message[1:])
        elif message[:1] == READY:
            self.asked.add((peer.name, message[1:-8]))
        self.noted.process(message, peer)

    def end(self, number: int) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None:
            peer.ended = True
            for topic in sorted(self.sets.pop(peer)):
                self.noted.process(b"\0" + topic, None)

    def check(self) -> None:
        topics = [
            t
            for held in self.sets.values()
            for t in held
            if not t.startswith((b"end/", b"client/"))
        ]
        expect(self.noted.prefixes == Counter(topics))
        expect(self.noted.count(TOPIC) == sum(TOPIC.startswith(t) for t in topics))
        if not self.knows_ends:
            return
        self.noted._find_ended()
        expect(not self.noted._ended)
        names = [
            {t.removeprefix(b"client/") for t in held if t.startswith(b"client/")} or {b""}
            for held in self.sets.values()
            if any(TOPIC.startswith(t) for t in held)
        ]
        expect(self.noted.names(TOPIC) == set().union(*names))
        expect(set(self.noted._connections) == {p.name for p, held in self.sets.items() if held})
        owned = {(p.name, t) for p, held in self.sets.items() for t in held}
        groups: WorkerGroups = self.noted.groups
        expect(set(groups._claims) <= owned)
        expect(len(groups._names) == len({name for name, _ in groups._claims}))
        for group, topic in groups.choose(TOPIC):
            start = topic.removesuffix(TOPIC)
            expect(not topic or start.startswith(f"turn/{group}/".encode()))
            expect(not topic or any(t.startswith(start) for _, t in owned & self.asked))


def expect(holds: bool) -> None:
    if not holds:
        raise RuntimeError("an expectation does not hold")


def target(data: bytes) -> None:
    """Run the actions: a byte for connection and kind, then a word, or a length and bytes."""
    model = Model()
    while data:
        number, action, data = data[0] % 8, data[0] // 8 % 8, data[1:]
        if action == END:
            model.knows_ends = bool(data[:1] < b"\x80")
            model.end(number)
        elif action == END - 1:
            size = data[0] if data else 0
            model.send(number, data[1 : 1 + size])
            data = data[1 + size :]
        else:
            word = WORDS[data[0] % len(WORDS)] if data else b""
            data = data[1:]
            kinds = (b"\1" + word, b"\0" + word, ready_message(word, len(data)))
            model.send(number, kinds[action % 3])
            if action == 5:
                model.noted.unconfirmed(SENDER, [TOPIC])
        model.check()
    model.knows_ends = True
    for number in range(8):
        model.end(number)
    model.check()
    expect(not model.noted.prefixes and not model.noted.groups and not model.noted._connections)


def seeds() -> list[bytes]:
    """One connection takes back what another has; a member asks; connections end."""
    frames, a_topic, member, receipt = (
        WORDS.index(w) for w in (b"frame/", TOPIC, MEMBER + b"frame/", WORDS[-1])
    )
    subscribe, take_back, ask, end = 0, 8, 16, END * 8
    return [
        bytes([subscribe, frames, 1 + take_back, frames, end]),
        bytes(
            [subscribe, member, 1 + subscribe, member, ask, member, 1 + ask, member, end, 1 + end]
        ),
        bytes(
            [subscribe, frames, subscribe, frames, end, subscribe, a_topic, 2 + subscribe, receipt]
        ),
        bytes([(END - 1) * 8, 8]) + b"\1frame/" + bytes([1]),
    ]


if __name__ == "__main__":
    fuzzing.main(sys.argv, target, seeds())
