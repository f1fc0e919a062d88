"""Gives Fast DDS a shared-memory segment that is large enough for images.

The default segment holds 512 KB, less than one image of 640x480. Fast DDS loses larger messages and
sends them again, 10 ms later, only to reliable subscribers. The segment is the publisher's, so this
applies to what the nodes publish; `docs/ros2.md` explains the set-up of other publishers.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

PROFILES = Path(__file__).with_name("fastdds.xml")
VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # of Fast DDS 2, up to ROS 2 Jazzy
FIRST_RCLPY_OF_FAST_DDS_3 = 8
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - of the system
NEEDED_BYTES = 48 * 2**20  # the segment and a reserve for other processes

# If the user has set one of these, a profile from here would override their choice.
_USERS_CHOICE = (
    VARIABLE,
    OLD_VARIABLE,
    "FASTDDS_BUILTIN_TRANSPORTS",
    "ROS_LOCALHOST_ONLY",
)


def make_room_for_images() -> None:
    """Give Fast DDS in this process a larger segment; call before the first node is created."""
    if not is_fast_dds() or any(os.environ.get(name) for name in _USERS_CHOICE):
        return
    if PROFILES.is_file() and _has_room():
        os.environ[profiles_variable()] = str(PROFILES)


def is_fast_dds() -> bool:
    """Whether the middleware of this process is Fast DDS, which is ROS 2's default."""
    return "fastrtps" in os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")


def profiles_variable() -> str:
    """The environment variable that names a file of profiles for Fast DDS."""
    is_new = int(version("rclpy").partition(".")[0]) >= FIRST_RCLPY_OF_FAST_DDS_3
    return VARIABLE if is_new else OLD_VARIABLE


def _has_room() -> bool:
    """Whether the segment fits: Fast DDS uses no shared memory if it cannot create one."""
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except OSError:
        return True  # a system with shared memory elsewhere
    return memory.f_bavail * memory.f_frsize >= NEEDED_BYTES
