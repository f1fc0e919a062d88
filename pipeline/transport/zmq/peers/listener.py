"""Lets libzmq accept the connections of a listening socket one by one.

libzmq accepts whatever comes, and aborts the process if no file descriptor is left for a connection
over ipc (4.3.5, `ipc_listener.cpp`). It waits for connections with epoll. On Linux, other code of
the process may change what epoll reports: here, nothing, until one connection is to be accepted
(`EPOLLONESHOT`). On other systems libzmq goes on accepting everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import socket as unix
from pathlib import Path

ATTEMPTS = 100

_FDINFO = Path("/proc/self/fdinfo")
_EPOLL_CTL_MOD = 3


class _EpollEvent(ctypes.Structure):
    _pack_ = 1 if platform.machine() in {"x86_64", "AMD64"} else 8
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class Listener:
    """A listening socket of libzmq, known by its file descriptor.

    Once `take_over` has succeeded, new connections wait until `admit` or `turn_away`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket = unix.socket(fileno=os.dup(fd))
        self._socket.setblocking(False)
        self._epoll: int | None = None
        self._data = 0
        self._attempts = 0

    @property
    def is_given_up(self) -> bool:
        """Whether `take_over` has failed so often that it is impossible here."""
        return self._attempts >= ATTEMPTS

    def fileno(self) -> int:
        return self._socket.fileno()

    def take_over(self) -> bool:
        """Stop libzmq from accepting; False if it does not wait for connections (yet)."""
        self._attempts += 1
        with contextlib.suppress(OSError, AttributeError):
            found = _registration(self._fd)
            if found is not None:
                self._epoll, self._data = found
                self._set(0)
                return True
        return False

    def admit(self) -> None:
        """Let libzmq accept one connection."""
        with contextlib.suppress(OSError):  # libzmq has closed the listening socket meanwhile
            self._set(select.EPOLLIN | select.EPOLLONESHOT)

    def turn_away(self) -> bool:
        """Accept one connection and close it; False if there was none."""
        try:
            self._socket.accept()[0].close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Release the listening socket, so that its address is free once libzmq closes it."""
        self._socket.close()

    def _set(self, events: int) -> None:
        event = _EpollEvent(events, self._data)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.epoll_ctl(self._epoll, _EPOLL_CTL_MOD, self._fd, ctypes.byref(event)) != 0:
            raise OSError(ctypes.get_errno(), "epoll_ctl")


def _registration(fd: int) -> tuple[int, int] | None:
    """The epoll file that reports a socket to libzmq, and the data that it reports it with."""
    inode = os.fstat(fd).st_ino
    for path in _FDINFO.iterdir():
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                words = line.replace(":", ": ").split()
                if not line.startswith("tfd:"):
                    continue
                fields = dict(zip(words[::2], words[1::2], strict=False))
                if int(fields["tfd:"]) == fd and int(fields["ino:"], 16) == inode:
                    return int(path.name), int(fields["data:"], 16)
    return None
