"""What a peer may do, as the option that names its key says: `FILE.key=CAMERA`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.transport.wire.schema import CAMERA_PATTERN, MAX_CAMERA

RECEIVE_ONLY, SEND_ONLY = "receive-only", "send-only"  # a camera's name has no hyphen


@dataclass(frozen=True)
class Rights:
    """What a peer may do.

    - `cameras`: the only cameras of which it may send frames and results; if empty, all cameras
      that no other peer is bound to
    - `sends`, `receives`: whether it may send and receive at all
    """

    cameras: frozenset[str] = frozenset()
    sends: bool = True
    receives: bool = True


def parse_peer(text: str) -> tuple[str, Rights]:
    """The path of a key file, and the rights that are named behind it.

    Raises `ConfigError` if they are invalid.
    """
    path, given, names = text.rpartition("=")
    if not given or os.path.exists(os.path.expanduser(text)):
        return text, Rights()
    words = set(names.split(","))
    roles = words & {RECEIVE_ONLY, SEND_ONLY}
    cameras = frozenset(words - roles)
    unknown = sorted(name for name in cameras if not _is_camera(name))
    if unknown or (RECEIVE_ONLY in roles and len(words) > 1):
        problem = f"'{unknown[0]}' is no camera's name" if unknown else "contradicts itself"
        raise ConfigError(
            f"peer '{text}': {problem}; expected FILE.key, FILE.key=CAMERA,CAMERA, "
            f"FILE.key={RECEIVE_ONLY} or FILE.key={SEND_ONLY}"
        )
    return path, Rights(cameras, sends=RECEIVE_ONLY not in roles, receives=SEND_ONLY not in roles)


def _is_camera(name: str) -> bool:
    return len(name) <= MAX_CAMERA and bool(re.search(CAMERA_PATTERN, name))
