"""The socket files of ipc addresses: taken by one process at a time, and private to its user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket as unix
import stat
from collections.abc import Iterator

from pipeline.errors import ConfigError
from pipeline.transport.address import Address

IN_USE = "is in use by another process"


@contextlib.contextmanager
def free_path(path: str, address: Address) -> Iterator[None]:
    """Hold a path while a socket is bound to it, so that no other process binds it meanwhile.

    The lock is a file beside it, so that only those who could take the path itself can hold it.
    Raises `ConfigError` if the path is in use, or its folder cannot be used.
    """
    folder, name = os.path.split(os.path.realpath(path))
    lock_path = f"{folder}/.{name}.lock"
    lock = _locked(lock_path, address)
    try:
        check_ipc_path(path, address)
        yield
    finally:
        os.unlink(lock_path)
        os.close(lock)


class SocketFile:
    """The file of a socket that this process has bound; with `private` no other user can use it."""

    def __init__(self, path: str, *, private: bool) -> None:
        self._path = path
        if private:
            os.chmod(path, 0o600)
        self._status = os.lstat(path)

    def remove(self) -> None:
        """Remove the file, unless another one is there now. libzmq leaves it."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._status, os.lstat(self._path)):
                os.unlink(self._path)


def _locked(path: str, address: Address) -> int:
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            lock = os.open(path, flags, 0o600)
        except OSError as error:
            raise ConfigError(f"address '{address.text}': {_why_not(path, error)}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.lstat(path)):
                return lock
        except FileNotFoundError:  # the process that held it has removed it
            pass
        except OSError as error:
            os.close(lock)
            raise ConfigError(f"address '{address.text}': {IN_USE}") from error
        os.close(lock)


def _why_not(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "is in a folder that does not exist"
    with contextlib.suppress(OSError):
        if os.lstat(path).st_uid != os.geteuid():
            return f"is held by another user, who has made {path}; choose a path in another folder"
    return f"cannot be used: {error.strerror}"


def check_ipc_path(path: str, address: Address) -> None:
    """Raise `ConfigError` if the path is a socket in use, or a file that is not a socket.

    Binding removes the file at the path.
    """
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return  # binding reports the error
    if not is_socket:
        raise ConfigError(f"address '{address.text}': a file that is not a socket exists there")
    with contextlib.closing(unix.socket(unix.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # a stopped process, with a full queue of connections
        except OSError as error:
            if error.errno != errno.EACCES:
                return  # the file of a process that died
            raise ConfigError(
                f"address '{address.text}': is the socket of another user; choose another path"
            ) from error
    raise ConfigError(f"address '{address.text}': {IN_USE}")
