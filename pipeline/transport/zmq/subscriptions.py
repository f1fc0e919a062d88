"""Follows what the subscribers of a publisher want, and which member of a group gets each frame.

A group's members share the frames of a stream: each frame goes to one that is ready for it. A
member subscribes to a topic of its own, `turn/GROUP/MEMBER/frame/CAMERA` (without the camera for
all), and says that it is ready with a message to the publisher: `READY`, its subscription, and how
many frames it has received, in 8 bytes. It repeats this as long as it waits, so that a publisher
that starts later receives it too; the number tells a repetition from the next request. ZeroMQ
unsubscribes a member that dies, which loses the frame that it was processing and no other.
"""

from __future__ import annotations

import re
import secrets
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from pipeline.errors import ConfigError
from pipeline.transport.zmq.sockets import is_readable

READY = b"\x02"
FORGET_S = 2.0  # a frame sent so long ago to a member that still asks was lost
MAX_MEMBERS = 256

_NAME = r"[A-Za-z0-9_-]{1,32}"
_SUBSCRIPTION = re.compile(rb"turn/(" + _NAME.encode() + rb")/[0-9a-f]{16}/frame/")
_NUMBER = struct.Struct("<Q")


def member_prefix(group: str | None) -> bytes:
    """The beginning of the topics of a new member of a group; empty without a group.

    Raises `ConfigError` if the group's name is invalid.
    """
    if group is None:
        return b""
    if not re.fullmatch(_NAME, group):
        raise ConfigError(f"group '{group}': expected at most 32 letters, digits, _ and -")
    return f"turn/{group}/{secrets.token_hex(8)}/".encode()


def ready_message(subscription: bytes, frames: int) -> bytes:
    """The request for a frame of a member that has received `frames` frames."""
    return READY + subscription + _NUMBER.pack(frames)


@dataclass(slots=True)
class _Member:
    """Its group, and which of its requests was served last, and when."""

    group: str
    served: int = -1
    served_at_s: float = 0.0


class WorkerGroups:
    """Chooses at the publisher which member of each group receives a frame."""

    def __init__(self) -> None:
        self._members: dict[bytes, _Member] = {}
        self._waiting: dict[bytes, int] = {}  # the ready members, longest first, by request number

    def __bool__(self) -> bool:
        return bool(self._members)

    def join(self, subscription: bytes) -> None:
        """Add a member, if the subscription is one of a member."""
        found = _SUBSCRIPTION.match(subscription)
        if found and len(self._members) < MAX_MEMBERS:
            self._members[subscription] = _Member(found[1].decode())

    def leave(self, subscription: bytes) -> None:
        """Remove a member."""
        self._members.pop(subscription, None)
        self._waiting.pop(subscription, None)

    def note_ready(self, message: bytes) -> None:
        """Read a member's request; any other message is ignored."""
        if len(message) <= _NUMBER.size or not message.startswith(READY):
            return
        subscription = message[len(READY) : -_NUMBER.size]
        (frames,) = _NUMBER.unpack(message[-_NUMBER.size :])
        member = self._members.get(subscription)
        if member is None:
            return
        if subscription in self._waiting:  # another publisher may have served the earlier request
            self._waiting[subscription] = max(self._waiting[subscription], frames)
        elif frames > member.served or time.monotonic() - member.served_at_s > FORGET_S:
            self._waiting[subscription] = frames

    def choose(self, topic: bytes) -> list[tuple[str, bytes]]:
        """Each group that wants `topic`, and the topic of the member that gets the next message.

        The member's topic is empty if all members of the group are busy.
        """
        chosen: dict[str, bytes] = {}
        for subscription in self._waiting:
            group = self._members[subscription].group
            if group not in chosen and _is_for(topic, subscription):
                chosen[group] = subscription
        for subscription in chosen.values():
            member = self._members[subscription]
            member.served, member.served_at_s = self._waiting.pop(subscription), time.monotonic()
        groups = {m.group for s, m in self._members.items() if _is_for(topic, s)}
        return [(g, _own_topic(topic, chosen[g]) if g in chosen else b"") for g in sorted(groups)]


def _own_topic(topic: bytes, subscription: bytes) -> bytes:
    return b"/".join(subscription.split(b"/", 3)[:3]) + b"/" + topic


def _is_for(topic: bytes, subscription: bytes) -> bool:
    """Whether a member wants the topic: exactly, or as a prefix if it ends with a slash."""
    wanted = subscription.split(b"/", 3)[3]
    return topic == wanted or (wanted.endswith(b"/") and topic.startswith(wanted))


MAX_SUBSCRIPTION = 1024  # bytes; subscribers send nothing longer
MAX_SUBSCRIPTIONS = 1000

_END = b"end/"


def end_receipt(sender: int, subscriber: str, topic: bytes) -> bytes:
    """What a subscriber subscribes to for a moment to confirm the end message of a topic.

    A subscriber cannot send anything else to a publisher.
    """
    return _END + f"{sender:016x}/{subscriber}/".encode() + topic


class Subscriptions:
    """The subscriptions at an XPUB socket, and the worker groups among them.

    `forget` is called with the topic prefix of a group's member that has left.
    """

    def __init__(self, socket: zmq.Socket[bytes], forget: Callable[[bytes], object]) -> None:
        self._socket = socket
        self._forget = forget
        self.prefixes: Counter[bytes] = Counter()
        self.groups = WorkerGroups()
        self._receipts: set[bytes] | None = None

    def wants(self, topic: bytes) -> bool:
        """Whether any subscriber wants the topic."""
        return any(topic.startswith(prefix) for prefix in self.prefixes)

    def count(self, topic: bytes) -> int:
        """How many subscribers want the topic."""
        return sum(n for prefix, n in self.prefixes.items() if topic.startswith(prefix))

    def unconfirmed(self, sender: int, topics: list[bytes]) -> list[bytes]:
        """Those of the topics whose end has not reached all their subscribers."""
        if self._receipts is None:
            self._receipts = set()
        self.update()
        own = f"{_END.decode()}{sender:016x}/".encode()
        confirmed = Counter(r.split(b"/", 3)[3] for r in self._receipts if r.startswith(own))
        return [topic for topic in topics if confirmed[topic] < self.count(topic)]

    def update(self) -> None:
        """Process what subscribers have sent: subscriptions, their ends, and members' requests."""
        for _ in range(MAX_SUBSCRIPTIONS):  # a flood must not delay the frame
            if not is_readable(self._socket):
                return
            message, *more = self._socket.recv_multipart()
            if not more:  # messages of several parts mean nothing here
                self._process(message)

    def _process(self, message: bytes) -> None:
        kind, topic = message[:1], message[1:]
        if kind in {b"\x00", b"\x01"} and topic.startswith(_END):
            if self._receipts is not None and topic.count(b"/") >= 3:
                self._receipts.add(topic)
        elif kind == b"\x01" and len(self.prefixes) < MAX_SUBSCRIPTIONS:
            self.prefixes[topic] += 1
            self.groups.join(topic)
        elif kind == b"\x00":
            self.prefixes[topic] -= 1
            if self.prefixes[topic] <= 0:
                del self.prefixes[topic]
                self.groups.leave(topic)
                if topic.startswith(b"turn/"):  # a member that returns has another name
                    self._forget(topic)
        else:
            self.groups.note_ready(message)
