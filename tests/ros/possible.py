"""Checks whether the tests with ROS 2 can run with this Python.

Uses only the standard library, because it runs before anything is installed. If something is
missing, it prints the reason and exits with 1.
"""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from pathlib import Path


def missing() -> str | None:
    """What is missing and how to install it; None if nothing is."""
    implementation, libc = platform.python_implementation(), platform.libc_ver()[0]
    machine = f"{platform.system()} {platform.machine()}"
    if implementation != "CPython" or not (3, 10) <= sys.version_info[:2] <= (3, 14):
        return (
            f"they need CPython 3.10 to 3.14, and this is {implementation} {sys.version.split()[0]}"
        )
    if machine != "Linux x86_64" or libc != "glibc":
        return f"they need Linux x86_64 with glibc, and this is {machine} {libc}".rstrip()
    if shutil.which("c++") is None:
        return "no C++ compiler for vision_msgs; on Debian and Ubuntu: apt install g++"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h for vision_msgs; on Debian and Ubuntu: apt install python3-dev"
    return None


if __name__ == "__main__":
    reason = missing()
    if reason is not None:
        sys.exit(f"tests with ROS 2 skipped: {reason}")
