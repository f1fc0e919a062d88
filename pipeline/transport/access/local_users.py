"""Which user of this machine is at the other end of a connection."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

_CREDENTIALS = struct.Struct("3i")  # process, user, group
_TCP_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED = b"01"
KNOWS_USERS_OF_TCP = os.access(_TCP_TABLES[0], os.R_OK)
"""Whether this system says whose the TCP connections within this machine are (Linux does)."""


def is_trusted(user: int | None) -> bool:
    """Whether a user may exchange messages with this process: its own user, and root."""
    return user in {0, os.geteuid()}


def user_at(connected: socket.socket) -> int | None:
    """The user of the process at the other end of a socket; None if that is not known.

    Over TCP, Linux knows it of connections within this machine.
    """
    with contextlib.suppress(OSError, AttributeError):
        if connected.family == socket.AF_UNIX:
            credentials = connected.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            return int(_CREDENTIALS.unpack(credentials)[1])
        return _user_of_tcp(connected.getpeername(), connected.getsockname())
    return None


def user_of(fd: int) -> int | None:
    """The same of a socket that another library owns."""
    try:
        connected = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        return user_at(connected)
    finally:
        connected.detach()


def is_own(fd: int) -> bool:
    """Whether a connection is one with this user or root, or this system does not say whose."""
    user = user_of(fd)
    return is_trusted(user) or (user is None and not KNOWS_USERS_OF_TCP)


def _user_of_tcp(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user of the socket with these ends, as the kernel lists them.

    A connection that its process has closed, or not accepted yet, has no user (inode 0).
    """
    ends = {(mine, other) for mine in _in_table(*local[:2]) for other in _in_table(*remote[:2])}
    for table in _TCP_TABLES:
        with contextlib.suppress(OSError), open(table, "rb") as lines:
            for line in lines:
                fields = line.split(maxsplit=10)
                if (fields[1], fields[2]) in ends and fields[3] == _ESTABLISHED:
                    return int(fields[7]) if int(fields[9]) else None
    return None


def _in_table(host: str, port: int) -> Iterator[bytes]:
    """An address as the kernel lists it; one of IPv4 also as its sockets of IPv6 have it."""
    number = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None)
    if mapped is not None:
        yield _in_hex(mapped.packed, port)
    elif number.version == 4:
        yield _in_hex(ipaddress.ip_address(f"::ffff:{number}").packed, port)
    yield _in_hex(number.packed, port)


def _in_hex(packed: bytes, port: int) -> bytes:
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"".join(b"%08X" % word for word in words) + b":%04X" % port
