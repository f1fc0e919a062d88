"""Chooses which member of a worker group gets each frame.

A group's members share the frames of a stream: each frame goes to one that is ready for it. A
member subscribes to a topic of its own, `turn/GROUP/MEMBER/frame/CAMERA` (without the camera for
all), and says that it is ready with a message to the publisher: `READY`, its subscription, and how
many frames it has received, in 8 bytes. It repeats this as long as it waits, so that a publisher
that starts later receives it too; the number tells a repetition from the next request. ZeroMQ
unsubscribes a member that dies, which loses the frame that it was processing and no other.

A connection is one member of one group, whatever it claims: the first name that it subscribes to
counts until it takes that back.
"""

from __future__ import annotations

import re
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError

READY = b"\x02"
REPEAT_S = 0.1  # how often a member repeats that it is ready
QUEUED_REQUESTS = 256
"""Subscriptions and requests that a subscriber queues per stream: all that it subscribes to, and
more requests than fit into the longest handshake. libzmq 4.3.5 drops subscriptions for which there
is no room, and sends no further request after a connection that broke while the queue was full
(`xsub_t::xhiccuped`)."""
FORGET_S = 2.0  # a frame sent so long ago to a member that still asks was lost

_NAME = r"[A-Za-z0-9_-]{1,32}"
_SUBSCRIPTION = re.compile(rb"(turn/(" + _NAME.encode() + rb")/[0-9a-f]{16}/)(frame/.*)", re.DOTALL)
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


class Requests:
    """When a member asks for a frame: at once if it is new, else every `REPEAT_S`."""

    def __init__(self, subscriptions: Sequence[bytes]) -> None:
        self._subscriptions = subscriptions
        self._asked = -1
        self._again_s = 0.0

    def due(self, frames: int) -> list[bytes]:
        """The requests to send now by a member that has received `frames` frames."""
        now_s = time.monotonic()
        if frames == self._asked and now_s < self._again_s:
            return []
        self._asked, self._again_s = frames, now_s + REPEAT_S
        return [ready_message(subscription, frames) for subscription in self._subscriptions]


@dataclass(slots=True)
class _Claim:
    """A member's subscription: its group and what it wants, and which request was served last.

    `wanted` is a topic, or a prefix of topics if it ends with a slash.
    """

    group: str
    wanted: bytes
    served: int = -1
    served_at_s: float = 0.0

    def is_for(self, topic: bytes) -> bool:
        return topic == self.wanted or (
            self.wanted.endswith(b"/") and topic.startswith(self.wanted)
        )


_Key = tuple[str, bytes]  # the connection and the subscription


class WorkerGroups:
    """Chooses at the publisher which member of each group receives a frame.

    A `connection` is named by any text that no other connection has.
    """

    def __init__(self) -> None:
        self._names: dict[str, bytes] = {}
        self._claims: dict[_Key, _Claim] = {}
        self._waiting: dict[_Key, int] = {}  # the ready ones, longest first, by request number

    def __bool__(self) -> bool:
        return bool(self._claims)

    def join(self, connection: str, subscription: bytes) -> None:
        """Add a member's subscription; other subscriptions are ignored."""
        found = _SUBSCRIPTION.fullmatch(subscription)
        if found and self._names.setdefault(connection, found[1]) == found[1]:
            self._claims[connection, subscription] = _Claim(found[2].decode(), found[3])

    def leave(self, connection: str, subscription: bytes) -> None:
        """Remove a member's subscription."""
        self._waiting.pop((connection, subscription), None)
        if self._claims.pop((connection, subscription), None) is not None and not any(
            of == connection for of, _ in self._claims
        ):
            del self._names[connection]

    def note_ready(self, connection: str, message: bytes) -> None:
        """Read a member's request; any other message is ignored."""
        if len(message) <= _NUMBER.size or not message.startswith(READY):
            return
        key = connection, message[len(READY) : -_NUMBER.size]
        (frames,) = _NUMBER.unpack(message[-_NUMBER.size :])
        claim = self._claims.get(key)
        if claim is None:
            return
        if key in self._waiting:  # another publisher may have served the earlier request
            self._waiting[key] = max(self._waiting[key], frames)
        elif frames > claim.served or time.monotonic() - claim.served_at_s > FORGET_S:
            self._waiting[key] = frames

    def choose(self, topic: bytes) -> list[tuple[str, bytes]]:
        """Each group that wants `topic`, and the topic of the member that gets the next message.

        The member's topic is empty if all members of the group are busy.
        """
        chosen: dict[str, _Key] = {}
        for key in self._waiting:
            claim = self._claims[key]
            if claim.group not in chosen and claim.is_for(topic):
                chosen[claim.group] = key
        for key in chosen.values():
            self._serve(key)
        groups = {claim.group for claim in self._claims.values() if claim.is_for(topic)}
        names = {group: self._names[connection] for group, (connection, _) in chosen.items()}
        return [
            (group, names[group] + topic if group in names else b"") for group in sorted(groups)
        ]

    def _serve(self, key: _Key) -> None:
        """Take a request from those that wait; its connection then goes behind the others."""
        claim = self._claims[key]
        claim.served, claim.served_at_s = self._waiting.pop(key), time.monotonic()
        for other in [other for other in self._waiting if other[0] == key[0]]:
            self._waiting[other] = self._waiting.pop(other)
