"""Groups whose members take turns on one stream: each frame goes to one that is ready for it.

A member subscribes to a topic of its own, `turn/GROUP/MEMBER/frame/CAMERA` (or without the camera
for all), and says that it is ready with a message back to the publisher: `READY`, its subscription,
and how many frames it has had, in 8 bytes. It repeats this as long as it waits, so that a publisher
that starts later hears it too; the number tells a repetition from the next wish. Who dies is
unsubscribed by ZeroMQ, and takes with it the frame that it had in hand and no other.
"""

from __future__ import annotations

import re
import secrets
import struct
import time
from dataclasses import dataclass

from pipeline.errors import ConfigError

READY = b"\x02"
FORGET_S = 2.0  # a frame that was sent so long ago to a member that still asks has not arrived
MAX_MEMBERS = 256

_NAME = r"[A-Za-z0-9_-]{1,32}"
_SUBSCRIPTION = re.compile(rb"turn/(" + _NAME.encode() + rb")/[0-9a-f]{16}/frame/")
_NUMBER = struct.Struct("<Q")


def turn_prefix(group: str) -> bytes:
    """What the topics of a new member of a group begin with.

    Raises `ConfigError` where the name cannot be a group's.
    """
    if not re.fullmatch(_NAME, group):
        raise ConfigError(f"group '{group}': expected at most 32 letters, digits, _ and -")
    return f"turn/{group}/{secrets.token_hex(8)}/".encode()


def ready_message(subscription: bytes, frames: int) -> bytes:
    """What a member says that has had so many frames and wants one more."""
    return READY + subscription + _NUMBER.pack(frames)


@dataclass(slots=True)
class _Member:
    """Its group, and for which of its wishes it has been sent a frame, and when."""

    group: str
    served: int = -1
    served_at_s: float = 0.0


class Turns:
    """Whose turn it is, at the publisher."""

    def __init__(self) -> None:
        self._members: dict[bytes, _Member] = {}
        self._waiting: dict[bytes, int] = {}  # who is ready, the longest first, and its number

    def __bool__(self) -> bool:
        return bool(self._members)

    def join(self, subscription: bytes) -> None:
        """Note a new subscription, where it is that of a member."""
        found = _SUBSCRIPTION.match(subscription)
        if found and len(self._members) < MAX_MEMBERS:
            self._members[subscription] = _Member(found[1].decode())

    def leave(self, subscription: bytes) -> None:
        """Note the end of a subscription."""
        self._members.pop(subscription, None)
        self._waiting.pop(subscription, None)

    def hear(self, message: bytes) -> None:
        """Note what a member says; anything else is passed over."""
        if len(message) <= _NUMBER.size or not message.startswith(READY):
            return
        subscription = message[len(READY) : -_NUMBER.size]
        (frames,) = _NUMBER.unpack(message[-_NUMBER.size :])
        member = self._members.get(subscription)
        if member is None:
            return
        if subscription in self._waiting:  # another publisher may have served the earlier wish
            self._waiting[subscription] = max(self._waiting[subscription], frames)
        elif frames > member.served or time.monotonic() - member.served_at_s > FORGET_S:
            self._waiting[subscription] = frames

    def take(self, topic: bytes) -> list[tuple[str, bytes]]:
        """Each group that wants `topic`, and the topic of the member that gets it now.

        That is empty where every member of the group is busy.
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
    """Whether a member wants the topic: just that, or all that begin so where it ends with /."""
    wanted = subscription.split(b"/", 3)[3]
    return topic == wanted or (wanted.endswith(b"/") and topic.startswith(wanted))
