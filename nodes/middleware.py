"""Fast DDS, set up for images where nobody has set it up otherwise.

Its shared memory holds 512 KB by default, less than one picture of 640x480. What does not fit is
lost, and sent again to reliable subscribers alone, 10 ms later. A process's own segment counts, so
this helps what our nodes publish; `docs/ros2.md` says what to do for others.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

PROFILES = Path(__file__).with_name("fastdds.xml")
VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
VARIABLE_BEFORE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # of Fast DDS 2, up to ROS 2 Jazzy
FIRST_RCLPY_OF_FAST_DDS_3 = 8
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - of the system
NEEDED_BYTES = 48 * 2**20  # the segment, and something for everybody else

# Whoever sets one of these wants something of their own, which our profile would undo.
_USERS_CHOICE = (
    VARIABLE,
    VARIABLE_BEFORE,
    "FASTDDS_BUILTIN_TRANSPORTS",
    "ROS_LOCALHOST_ONLY",
)


def make_room_for_images() -> None:
    """Before the first node is made: give this process's Fast DDS a larger segment."""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in middleware or any(os.environ.get(name) for name in _USERS_CHOICE):
        return
    if PROFILES.is_file() and _has_room():
        is_new = int(version("rclpy").partition(".")[0]) >= FIRST_RCLPY_OF_FAST_DDS_3
        os.environ[VARIABLE if is_new else VARIABLE_BEFORE] = str(PROFILES)


def _has_room() -> bool:
    """Containers have 64 MB; without a segment Fast DDS would do without shared memory at all."""
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except OSError:
        return True  # another system, that keeps it elsewhere
    return memory.f_bavail * memory.f_frsize >= NEEDED_BYTES
