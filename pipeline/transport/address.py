"""Addresses as users write them: `zmq+tcp://host:port/camera`, `zmq+ipc://name?camera=camera`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import zmq

from pipeline.errors import ConfigError
from pipeline.paths import runtime_folder
from pipeline.text.display import shown_source
from pipeline.text.native import utf8
from pipeline.transport.wire.schema import (
    CAMERA_PATTERN,
    MAX_CAMERA,
)

TCP, IPC = "zmq+tcp://", "zmq+ipc://"
PREFIXES = (TCP, IPC)
FORMS = "zmq+tcp://HOST:PORT[/CAMERA] or zmq+ipc://NAME[?camera=CAMERA]"

_IPC_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Address:
    """An address to send to or receive from.

    - `text`: as the user wrote it
    - `endpoint`: in ZeroMQ's form
    - `host`: of TCP, else empty
    - `camera`: the only camera that is selected, None for all
    - `bind`: whether this end binds (`?bind`) or connects (`?connect`); by default (None)
      publishers bind and subscribers connect
    - `is_local`: whether it cannot be reached from another machine
    """

    text: str
    endpoint: str
    host: str
    camera: str | None
    bind: bool | None
    is_local: bool


def is_address(text: str) -> bool:
    """Whether `text` has the scheme of an address between processes, valid or not."""
    return text.lower().startswith(PREFIXES)


def parse_address(text: str) -> Address:
    """Parse an address.

    Raises `ConfigError` if it is invalid.
    """
    is_ipc = text.lower().startswith(IPC)
    shown = text if is_ipc else shown_source(text)  # it may be one with a password by mistake
    if not is_address(text):
        raise ConfigError(f"address '{shown}': expected {FORMS}")
    if not is_ipc and "@" in text:
        raise ConfigError(f"address '{shown}': has a user name; expected {FORMS}, and --key FILE")
    utf8(text, ConfigError)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"address '{shown}': {error}; expected {FORMS}") from error
    if parts.fragment:
        raise ConfigError(f"address '{shown}': contains '#'; expected {FORMS}")
    camera, bind = _options(shown, parts.query)
    if parts.scheme == "zmq+ipc":
        return Address(text, _ipc(shown, parts.netloc + parts.path), "", camera, bind, True)
    host = parts.netloc.rpartition(":")[0]
    if not host or port is None:
        raise ConfigError(f"address '{shown}': has no host or no port; expected {FORMS}")
    in_path = parts.path.strip("/")
    if in_path:
        if camera not in {None, in_path}:
            raise ConfigError(f"address '{shown}': names two cameras; remove one of them")
        camera = _camera(shown, in_path)
    return Address(text, f"tcp://{host}:{port}", host, camera, bind, is_loopback(host))


def _ipc(shown: str, path: str) -> str:
    # A name of a socket in this user's own folder, the path of a socket, or behind an @ an abstract
    # name, which has no file.
    if _IPC_NAME.fullmatch(path):
        path = str(runtime_folder() / path)
    if not path.startswith(("/", "@")) or len(path) < 2:
        raise ConfigError(
            f"address '{shown}': has neither a name nor an absolute path; expected {FORMS}"
        )
    longest = int(zmq.IPC_PATH_MAX_LEN)
    if len(path.encode()) > longest:
        raise ConfigError(f"address '{shown}': has a path longer than {longest} bytes")
    return f"ipc://{path}"


def _options(shown: str, query: str) -> tuple[str | None, bool | None]:
    camera: str | None = None
    bind: bool | None = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "camera":
            camera = _camera(shown, value)
        elif name in {"bind", "connect"} and not value:
            if bind is not None:
                raise ConfigError(f"address '{shown}': expected bind or connect, and only once")
            bind = name == "bind"
        else:
            raise ConfigError(
                f"address '{shown}': unknown setting '{name}'; known are camera, bind and connect"
            )
    return camera, bind


def _camera(shown: str, name: str) -> str:
    if len(name) > MAX_CAMERA or not re.search(CAMERA_PATTERN, name):
        raise ConfigError(
            f"address '{shown}': '{name}' cannot be a camera's name; letters, digits and _ are "
            f"allowed, parts are separated by / and none begins with a digit"
        )
    return name


def is_loopback(host: str) -> bool:
    """Whether a host, by name or number, is the loopback of this machine."""
    if host.lower() == "localhost":
        return True
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(number, "ipv4_mapped", None)  # ::ffff:127.0.0.1, on a dual-stack socket
    return (mapped or number).is_loopback
