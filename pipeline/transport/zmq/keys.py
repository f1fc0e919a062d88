"""CURVE keys: files, the addresses that require them, and the check of connecting peers."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import zmq
from zmq.utils import z85

from pipeline.errors import ConfigError
from pipeline.text.files import read_bytes
from pipeline.transport.access.local_users import is_trusted
from pipeline.transport.access.rights import Rights, parse_peer
from pipeline.transport.address import Address
from pipeline.transport.wire.schema import WireError

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"  # noqa: S105 - the end of a file name
MAX_KEY_FILE = 4096

_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"\s]{40})"\s*$', re.MULTILINE)
DOMAIN = b"vision"  # of the keys, for libzmq's authentication (RFC 27/ZAP)


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both keys as 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Security:
    """The keys of a socket.

    - `keys`: this end's own, None for none
    - `peers`: the public keys of the peers that may connect, or of the one that is connected to
    - `insecure`: use addresses off this machine without keys
    - `rights`: what these peers may do; a peer without an entry has all rights
    """

    keys: KeyPair | None = None
    peers: tuple[bytes, ...] = ()
    insecure: bool = False
    rights: Mapping[bytes, Rights] = field(default_factory=dict)

    def for_publisher(self) -> Security:
        """The same with those peers that may receive."""
        return replace(self, peers=tuple(key for key in self.peers if self._of(key).receives))

    def for_subscriber(self) -> Security:
        """The same with those peers that may send."""
        return replace(self, peers=tuple(key for key in self.peers if self._of(key).sends))

    def check_camera(self, key: bytes, camera: str) -> None:
        """Raise `WireError` if the peer with this key may not send what concerns a camera.

        An empty key is that of the peer that was connected to.
        """
        if not self.rights:
            return
        key = key or self.peers[0]
        if cameras := self._of(key).cameras:
            may_send = camera in cameras
        else:
            may_send = not any(camera in rights.cameras for rights in self.rights.values())
        if not may_send:
            raise WireError("camera", f"key {key.decode()} may not send camera {camera}")

    def _of(self, key: bytes) -> Rights:
        return self.rights.get(key, Rights())


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new key pair to `NAME.key` and, readable by its owner only, `NAME.key_secret`.

    Returns both paths. Raises `ConfigError` if one of them exists or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        raise ConfigError(f"key name '{name}': expected letters, digits, _ . and - (at most 64)")
    public, secret = zmq.curve_keypair()
    paths = folder / (name + PUBLIC_SUFFIX), folder / (name + SECRET_SUFFIX)
    for path in paths:
        if os.path.exists(path):
            raise ConfigError(f"{path}: already exists; keys are never overwritten")
    line = f'curve\n    public-key = "{public.decode()}"\n'
    _write_new(paths[0], f"# public key of {name}: copy it to the other end\n{line}", 0o644)
    secret_line = f'    secret-key = "{secret.decode()}"\n'
    try:
        secret_text = f"# secret key of {name}: keep it secret\n{line}{secret_line}"
        _write_new(paths[1], secret_text, 0o600)
    except ConfigError:
        paths[0].unlink()  # useless alone
        raise
    return paths


def load_key_pair(path: Path) -> KeyPair:
    """The key pair of a `.key_secret` file.

    Raises `ConfigError` if it is invalid, readable by other users, or another user's.
    """
    keys = _read(path)
    if "secret-key" not in keys:
        raise ConfigError(f"{path}: holds no secret key; expected a file NAME{SECRET_SUFFIX}")
    status = path.stat()
    if status.st_mode & 0o077:
        raise ConfigError(f"{path}: other users can read this secret key; run: chmod 600 {path}")
    if not is_trusted(status.st_uid):
        raise ConfigError(f"{path}: is a secret key of another user; copy it, or make a new pair")
    pair = KeyPair(keys["public-key"], keys["secret-key"])
    if zmq.has("curve") and zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"{path}: its keys are of two pairs; make a new pair: vision keys NAME")
    return pair


def load_public_key(path: Path) -> bytes:
    """The public key of a `.key` file.

    Raises `ConfigError` if it is invalid.
    """
    return _read(path)["public-key"]


def load_peers(texts: Iterable[str]) -> dict[bytes, Rights]:
    """The public keys of `FILE.key` or `FILE.key=RIGHTS`, each with its rights.

    Raises `ConfigError` if a file or its rights are invalid, or if a key has two kinds of rights.
    """
    peers: dict[bytes, Rights] = {}
    for text in texts:
        path, rights = parse_peer(text)
        key = load_public_key(Path(os.path.expanduser(path)))
        known = peers.get(key, Rights())
        if Rights() not in (known, rights) and known != rights:
            raise ConfigError(f"peer '{text}': the same key was given with other rights before")
        peers[key] = known if rights == Rights() else rights
    return peers


def check_policy(address: Address, security: Security) -> None:
    """Raise `ConfigError` if the address needs keys that `security` does not have.

    Addresses reachable from other machines require keys, unless `insecure` is set.
    """
    if security.keys is None and security.peers:
        raise ConfigError(
            f"address '{address.text}': expected a key of its own beside those of its peers "
            f"(--key NAME{SECRET_SUFFIX}); make one with: vision keys NAME"
        )
    if security.keys is not None and not zmq.has("curve"):
        raise ConfigError("keys: the installed pyzmq was built without CURVE")
    if not address.is_local and security.keys is None and not security.insecure:
        raise ConfigError(
            f"address '{address.text}': is reachable from other machines and requires keys; make "
            f"them with 'vision keys NAME', or use --insecure"
        )


def protect(socket: zmq.Socket[bytes], address: Address, security: Security, bind: bool) -> None:
    """Set the keys on a socket before it binds or connects.

    Raises `ConfigError` if a key of the other end is missing.
    """
    check_policy(address, security)
    if security.keys is None:
        return
    socket.curve_publickey = security.keys.public
    socket.curve_secretkey = security.keys.secret
    if bind:
        if not security.peers:
            raise ConfigError(
                f"address '{address.text}': expected the public key of each peer that may connect "
                f"(--peer FILE{PUBLIC_SUFFIX}), but got none"
            )
        socket.curve_server = True
        socket.zap_domain = DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # let nobody in without `Connections`
    else:
        if len(security.peers) != 1:
            raise ConfigError(
                f"address '{address.text}': expected the public key of the peer to connect to "
                f"(--server FILE{PUBLIC_SUFFIX}), but got {len(security.peers)} keys"
            )
        socket.curve_serverkey = security.peers[0]


def _read(path: Path) -> dict[str, bytes]:
    try:
        text = read_bytes(path, MAX_KEY_FILE, ConfigError).decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a key; expected a file of 'vision keys'") from error
    keys = {name: value.encode() for name, value in _LINE.findall(text)}
    try:
        for value in keys.values():
            z85.decode(value)
    except (ValueError, KeyError, struct.error) as error:  # invalid Z85
        raise ConfigError(f"{path}: its key is damaged") from error
    if "public-key" not in keys:
        raise ConfigError(f"{path}: holds no key; expected a file of 'vision keys'")
    return keys


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except OSError as error:
        known = error.errno == errno.EEXIST and os.path.isdir(path.parent)
        why = "already exists; keys are never overwritten" if known else error.strerror
        raise ConfigError(f"{path}: {why}") from error
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
