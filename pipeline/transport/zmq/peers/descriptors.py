"""What the kernel knows about the sockets of libzmq, by their file descriptors."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import resource
import socket as unix
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENOUGH_FILES = 1 << 20
_TCP_INFO, _RECEIVED_AT = 11, 128  # Linux: the option, and the offset of tcpi_bytes_received
_CREDENTIALS = struct.Struct("3i")  # process, user, group


def spare_files() -> int:
    """How many more files this process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return ENOUGH_FILES
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:  # not even one to count them
        return 0


def peer_at(fd: int) -> str:
    """Who is at the other end of a socket, in libzmq's form; empty if nobody is."""
    with suppress(OSError), borrowed(fd) as socket:
        if socket.family == unix.AF_UNIX:
            credentials = socket.getsockopt(unix.SOL_SOCKET, unix.SO_PEERCRED, _CREDENTIALS.size)
            process, user, group = _CREDENTIALS.unpack(credentials)
            return f"localhost:{user}:{group}:{process}"
        return str(socket.getpeername()[0])
    return ""


def received_bytes(fd: int) -> int:
    """How much a TCP connection has received; 0 if that is not known."""
    with suppress(OSError), borrowed(fd) as socket:
        info = socket.getsockopt(unix.IPPROTO_TCP, _TCP_INFO, _RECEIVED_AT + 8)
        return int.from_bytes(info[_RECEIVED_AT:], sys.byteorder)
    return 0


def unread_bytes(fd: int) -> int:
    """How much of what a connection has received was not read yet."""
    with suppress(OSError):
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def source_of(peer: str) -> str:
    """What one sender can have many of: a process, an IPv4 address, an IPv6 network."""
    try:
        return str(ipaddress.ip_network(f"{peer}/{64 if ':' in peer else 32}", strict=False))
    except ValueError:
        return peer


def close_connection(fd: int, peer: str | None = None) -> None:
    """Close a connection of libzmq, unless its descriptor is no longer that of `peer`."""
    if peer is None or peer_at(fd) == peer:
        with suppress(OSError), borrowed(fd) as socket:
            socket.shutdown(unix.SHUT_RDWR)


@contextmanager
def borrowed(fd: int) -> Iterator[unix.socket]:
    """A socket of libzmq, which stays open; raises `OSError` if there is none."""
    socket = unix.socket(fileno=fd)
    try:
        yield socket
    finally:
        socket.detach()
