"""Who may talk to whom: CURVE keys, where they are needed, and the check of those that come."""

from __future__ import annotations

import errno
import logging
import os
import re
import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from pipeline.errors import ConfigError
from pipeline.transport.address import Address

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"  # noqa: S105 - the end of a file name
MAX_KEY_FILE = 4096

_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"\s]{40})"\s*$', re.MULTILINE)
_ZAP = "inproc://zeromq.zap.01"  # where libzmq asks about every newcomer (RFC 27/ZAP)
_ZAP_REQUEST_PARTS = 7  # version, id, domain, address, identity, mechanism, key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both keys as 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Security:
    """What a socket is protected with.

    - `keys`: this end's own, None for none
    - `peers`: the public keys of the others: those that may come, or the one that is gone to
    - `insecure`: go off this machine without keys all the same
    """

    keys: KeyPair | None = None
    peers: tuple[bytes, ...] = ()
    insecure: bool = False


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new key pair to `NAME.key` and, readable by its owner only, `NAME.key_secret`.

    Returns both paths. Raises `ConfigError` where one of them is there already, or cannot be
    written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        raise ConfigError(f"key name '{name}': expected letters, digits, _ . and - (at most 64)")
    public, secret = zmq.curve_keypair()
    paths = folder / (name + PUBLIC_SUFFIX), folder / (name + SECRET_SUFFIX)
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path}: is there already; keys are never overwritten")
    line = f'curve\n    public-key = "{public.decode()}"\n'
    _write_new(paths[0], f"# public key of {name}: give it to the other end\n{line}", 0o644)
    secret_line = f'    secret-key = "{secret.decode()}"\n'
    try:
        secret_text = f"# secret key of {name}: give it to nobody\n{line}{secret_line}"
        _write_new(paths[1], secret_text, 0o600)
    except ConfigError:
        paths[0].unlink()  # which is of no use alone
        raise
    return paths


def load_key_pair(path: Path) -> KeyPair:
    """The key pair of a `.key_secret` file.

    Raises `ConfigError` where it is none, or others than its owner can read it.
    """
    keys = _read(path)
    if "secret-key" not in keys:
        raise ConfigError(f"{path}: holds no secret key; expected a file NAME{SECRET_SUFFIX}")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read this secret key; run: chmod 600 {path}")
    pair = KeyPair(keys["public-key"], keys["secret-key"])
    if zmq.has("curve") and zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"{path}: its two keys are of two pairs; make new ones: vision keys NAME")
    return pair


def load_public_key(path: Path) -> bytes:
    """The public key of a `.key` file.

    Raises `ConfigError` where it is none.
    """
    return _read(path)["public-key"]


def check_policy(address: Address, security: Security) -> None:
    """Whether the address may be used with this security.

    Raises `ConfigError` where it leaves the machine without keys and that was not asked for.
    """
    if security.keys is None and security.peers:
        raise ConfigError(
            f"address '{address.text}': the keys of others are given and no key of its own "
            f"(--key NAME{SECRET_SUFFIX}); make one with: vision keys NAME"
        )
    if security.keys is not None and not zmq.has("curve"):
        raise ConfigError("keys: the installed pyzmq was built without CURVE")
    if not address.is_local and security.keys is None and not security.insecure:
        raise ConfigError(
            f"address '{address.text}': others on the network could reach it; make keys with "
            f"'vision keys NAME', or say --insecure"
        )


def protect(socket: zmq.Socket[bytes], address: Address, security: Security, bind: bool) -> None:
    """Set the keys on a socket before it binds or connects.

    Raises `ConfigError` where a key of the other end is missing.
    """
    check_policy(address, security)
    if security.keys is None:
        return
    socket.curve_publickey = security.keys.public
    socket.curve_secretkey = security.keys.secret
    if bind:
        if not security.peers:
            raise ConfigError(
                f"address '{address.text}': nobody could come, because no public key of another "
                f"end is given; name one with --peer FILE{PUBLIC_SUFFIX} for each who may"
            )
        socket.curve_server = True
        socket.zap_domain = b"vision"
    else:
        if len(security.peers) != 1:
            raise ConfigError(
                f"address '{address.text}': expected the public key of the one end that is gone "
                f"to (--server FILE{PUBLIC_SUFFIX}), but got {len(security.peers)} keys"
            )
        socket.curve_serverkey = security.peers[0]


class Doorkeeper:
    """Answers libzmq's question, for every newcomer to a context, whether its key is known.

    A thread of its own; `close` it before the context ends.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], known: Collection[bytes]) -> None:
        self._context = context
        self._known = frozenset(z85.decode(key) for key in known)
        self._stop = f"inproc://doorkeeper-{id(self)}"
        self._stopper = context.socket(zmq.PAIR)
        self._stopper.bind(self._stop)
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="doorkeeper", daemon=True
        )
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """End the thread."""
        self._stopper.send(b"")
        self._thread.join()
        self._stopper.close(0)

    def _run(self, ready: threading.Event) -> None:
        with self._context.socket(zmq.REP) as asked, self._context.socket(zmq.PAIR) as stop:
            asked.linger = stop.linger = 0
            asked.bind(_ZAP)
            stop.connect(self._stop)
            ready.set()
            poller = zmq.Poller()
            poller.register(asked, zmq.POLLIN)
            poller.register(stop, zmq.POLLIN)
            while stop not in dict(poller.poll()):
                asked.send_multipart(self._answer(asked.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        version, number = [*request, b"", b""][:2]
        welcome = (
            len(request) == _ZAP_REQUEST_PARTS
            and request[5] == b"CURVE"
            and request[6] in self._known
        )
        if welcome:
            return [version, number, b"200", b"OK", b"", b""]
        who = request[3].decode("ascii", "replace") if len(request) > 3 else "somebody"
        key = request[6] if len(request) == _ZAP_REQUEST_PARTS else b""
        shown = z85.encode(key).decode() if len(key) == 32 else "none"
        log.warning("refused %s: its key %s is not among the known ones", who, shown)
        return [version, number, b"400", b"unknown key", b"", b""]


def _read(path: Path) -> dict[str, bytes]:
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no key; expected a file of 'vision keys'") from error
    keys = {name: value.encode() for name, value in _LINE.findall(text)}
    try:
        for value in keys.values():
            z85.decode(value)
    except (ValueError, KeyError, struct.error) as error:  # what is no Z85
        raise ConfigError(f"{path}: its key is damaged") from error
    if "public-key" not in keys:
        raise ConfigError(f"{path}: holds no key; expected a file of 'vision keys'")
    return keys


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except OSError as error:
        known = error.errno == errno.EEXIST and path.parent.is_dir()
        why = "is there already; keys are never overwritten" if known else error.strerror
        raise ConfigError(f"{path}: {why}") from error
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
