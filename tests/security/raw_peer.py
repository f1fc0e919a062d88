"""A peer that sends what it likes: ZMTP 3.0 (RFC 23) on a plain socket, without libzmq."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import sys

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
MORE, LONG, COMMAND = 1, 2, 4


def zmtp_frame(body, flags=0):
    """A part of a message, or a command, as it travels."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body


def plain_socket(endpoint):
    """A socket that is connected to an endpoint as ZeroMQ writes it."""
    kind, place = endpoint.split("://")
    if kind == "tcp":
        host, port = place.rsplit(":", 1)
        return socket.create_connection((host, int(port)))
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(place.replace("@", "\0", 1))
    return connected


class RawPeer:
    """A connection that has shaken hands as a subscriber."""

    def __init__(self, endpoint):
        self._socket = plain_socket(endpoint)
        self._socket.sendall(GREETING + zmtp_frame(READY, COMMAND))
        self._receive(len(GREETING))
        _, size = self._receive(2)
        self._receive(size)  # its READY; a message before that ends the connection

    def _receive(self, size):
        received = b""
        while len(received) < size:
            part = self._socket.recv(size - len(received))
            if not part:
                raise ConnectionError("the other end closed the connection")
            received += part
        return received

    def send(self, *messages):
        """Send messages of one part, all at once."""
        self._socket.sendall(b"".join(map(zmtp_frame, messages)))

    def send_raw(self, data):
        self._socket.sendall(data)

    def is_closed(self):
        """Whether the other end has closed the connection; discards what has come."""
        self._socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            try:
                while self._socket.recv(1 << 16):
                    pass
            except ConnectionError:
                return True
            return True
        return False

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.close()


FLOODS = {
    "new topics": lambda n: [b"\1%d" % (n + i) for i in range(1000)],
    "long topics": lambda n: [b"\1%d" % (n + i) + bytes(450) for i in range(1000)],
    "one topic": lambda n: [b"\1a", b"\0a"] * 500,
    "taken back": lambda n: [b"\0a"] * 1000,
    "requests": lambda n: [b"\2turn/crew/0123456789abcdef/frame/" + bytes(8)] * 1000,
}


def flood(endpoint, kind):
    """Send messages as fast as possible, also after the connection was closed, until killed."""
    number = 0
    while True:
        with contextlib.suppress(OSError), RawPeer(endpoint) as peer:
            print("flooding", flush=True)  # noqa: T201 - the test waits for it
            while True:
                peer.send(*FLOODS[kind](number))
                number += 1000


def connect_many(endpoint, count):
    """Subscribe on many connections, and hold those that stay until killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(count) + 100, int(count) + 100))
    held = []
    for _ in range(int(count)):
        with contextlib.suppress(OSError):
            held.append(RawPeer(endpoint))
            held[-1].send(b"\1frame/")
    print("connected", flush=True)  # noqa: T201 - the test waits for it
    sys.stdin.read()


def never_finish(endpoint, count):
    """Keep many connections that do not shake hands, opened again when closed, until killed."""
    held, said = [], False
    while True:
        while len(held) < int(count):
            with contextlib.suppress(OSError):
                held.append(plain_socket(endpoint))
                held[-1].sendall(GREETING[:1])
        if not said:
            said = print("connected", flush=True) is None  # noqa: T201 - the test waits for it
        closed, _, _ = select.select(held, [], [], 0.1)
        for one in closed:
            with contextlib.suppress(OSError):
                if one.recv(1 << 10):
                    continue
            one.close()
            held.remove(one)


def endless(endpoint, megabytes_per_s):
    """Send parts of one message until the connection is closed."""
    parts = zmtp_frame(bytes(400), MORE) * 50
    with contextlib.suppress(OSError), RawPeer(endpoint) as peer:
        print("sending", flush=True)  # noqa: T201 - the test waits for it
        while True:
            peer.send_raw(parts)
            select.select([], [], [], len(parts) / (float(megabytes_per_s) * 1e6))
    print("closed", flush=True)  # noqa: T201 - the test waits for it


if __name__ == "__main__":
    actions = {
        "flood": flood,
        "connect": connect_many,
        "never finish": never_finish,
        "endless": endless,
    }
    actions[sys.argv[1]](*sys.argv[2:])
