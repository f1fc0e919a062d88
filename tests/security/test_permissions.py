"""Folders, sockets and their locks belong to one user, and no other user can hold or enter them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import ConfigError
from pipeline.transport import Publisher, Security, Subscriber
from pipeline.transport.address import parse_address
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import RingWriter
from pipeline.transport.shm.rings import NotifyServer, connect
from tests.security.other_user import NOBODY, as_nobody, needs_second_user, shared_folder

needs_shared_memory = pytest.mark.skipif(
    not ring_file.is_available(), reason="shared memory needs Linux with /dev/shm"
)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def unix_sockets():
    """The names of all sockets of this machine, as every user can read them."""
    return Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def open_umask():
    """New files may be read and written by every user."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def no_runtime_folder(tmp_path, monkeypatch):
    """A machine without XDG_RUNTIME_DIR or /run/user, and a temporary folder of this test."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(paths, "_LOGIN_FOLDERS", str(tmp_path / "none"))
    return tmp_path


# --- the folder of sockets -----------------------------------------------------------------------


def test_a_name_is_a_socket_in_the_runtime_folder(tmp_path, monkeypatch, open_umask):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert parse_address("zmq+ipc://front").endpoint == f"ipc://{tmp_path}/vision/front"
    assert mode(tmp_path / "vision") == 0o700


def test_a_runtime_folder_that_others_can_enter_is_not_used(no_runtime_folder, monkeypatch):
    public = no_runtime_folder / "public"
    public.mkdir()
    public.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(public))
    assert paths.runtime_folder() == no_runtime_folder / f"vision-{os.geteuid()}"


def test_without_a_runtime_folder_there_is_a_private_one(no_runtime_folder, open_umask):
    folder = paths.runtime_folder()
    assert folder == no_runtime_folder / f"vision-{os.geteuid()}"
    assert mode(folder) == 0o700
    assert paths.runtime_folder() == folder


@pytest.mark.parametrize("kind", ["open folder", "link", "file", "folder of another user"])
def test_a_folder_made_by_somebody_else_is_refused(no_runtime_folder, kind):
    folder = no_runtime_folder / f"vision-{os.geteuid()}"
    if kind == "link":
        (no_runtime_folder / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif kind == "file":
        folder.touch(0o600)
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "open folder" else 0o700)
    if kind == "folder of another user":
        if os.geteuid() != 0:
            pytest.skip("only root can act as a second user")
        os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=r"vision-[0-9]+"):
        parse_address("zmq+ipc://front")


def test_a_publisher_and_a_subscriber_meet_at_a_name(no_runtime_folder):
    with Publisher("zmq+ipc://front") as publisher, Subscriber("zmq+ipc://front"):
        assert publisher.endpoint.startswith("ipc://")
        waiting = threading.Event()
        for _ in range(3000):
            if publisher.wants_frames("any"):
                return
            waiting.wait(0.01)
    raise AssertionError("the subscriber did not connect")


# --- sockets and their locks ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [Publisher, Subscriber])
def test_a_socket_is_private_whatever_the_umask(tmp_path, open_umask, end):
    path = tmp_path / "socket"
    with end(f"zmq+ipc://{path}?bind"):
        assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_insecure_leaves_the_mode_of_a_socket_to_the_umask(tmp_path, open_umask):
    path = tmp_path / "socket"
    with Publisher(f"zmq+ipc://{path}", security=Security(insecure=True)):
        assert mode(path) == 0o777


def test_the_lock_of_a_path_is_as_private_as_its_folder(tmp_path):
    """No name outside of the folder is taken, which another user could hold."""
    path = tmp_path / "camera"
    probe = """
import sys
from pipeline.transport.address import parse_address
from pipeline.transport.access.socket_files import free_path
path = sys.argv[1]
with free_path(path, parse_address("zmq+ipc://" + path)):
    print("held", flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", probe, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert mode(tmp_path / ".camera.lock") == 0o600
        with pytest.raises(ConfigError, match="in use by another process"):
            Publisher(f"zmq+ipc://{path}")
        holder.kill()  # its lock file stays, without a lock
        holder.communicate()
    Publisher(f"zmq+ipc://{path}").close()
    assert not (tmp_path / ".camera.lock").exists()


@needs_second_user
def test_a_path_that_another_user_has_taken_is_named():
    with shared_folder() as folder:

        def take(say, told):
            taken = socket.socket(socket.AF_UNIX)
            taken.bind(f"{folder}/camera")
            taken.listen()
            with open(f"{folder}/.rear.lock", "wb", buffering=0):
                say("taken")
                told()

        with as_nobody(take) as nobody:
            assert nobody.readline() == "taken\n"
            with pytest.raises(ConfigError, match="in use by another process"):
                Publisher(f"zmq+ipc://{folder}/camera")


# --- notifications of shared memory ---------------------------------------------------------------


@needs_shared_memory
def test_notifications_go_through_a_private_file(open_umask):
    with contextlib.closing(RingWriter(4096, slots=2)) as ring:
        path = ring_file.notify_path_of(ring.ring)
        with contextlib.closing(NotifyServer(ring.ring)) as server:
            assert mode(path) == 0o600
            assert f"@vision-{ring.ring}" not in unix_sockets()
            with contextlib.closing(connect(ring.ring, b"reader")):
                server.accept([b"reader"])
                assert len(server) == 1
        assert not os.path.lexists(path)


@needs_shared_memory
@needs_second_user
def test_another_user_cannot_take_up_the_places_of_readers():
    with (
        contextlib.closing(RingWriter(4096, slots=2)) as ring,
        contextlib.closing(NotifyServer(ring.ring)) as server,
    ):
        path = ring_file.notify_path_of(ring.ring)

        def flood(say, told):
            held = 0
            for _ in range(200):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                one.setblocking(False)
                with contextlib.suppress(OSError):
                    one.connect(path)
                    held += 1
            say(held)
            told()

        with as_nobody(flood) as nobody:
            assert nobody.readline() == "0\n"
            with contextlib.closing(connect(ring.ring, b"reader")):
                server.accept([b"reader"])
                assert len(server) == 1


@needs_shared_memory
def test_sockets_of_dead_writers_are_removed():
    left = ["1-0123456789abcdef", "1-fedcba9876543210"]
    paths_left = [ring_file.notify_path_of(ring) for ring in left]
    for path in paths_left:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(path)
    with open(ring_file.path_of(left[0]), "xb"):
        pass  # nobody locks it
    with contextlib.closing(RingWriter(4096, slots=2)) as ring:
        server = NotifyServer(ring.ring)
        ring_file.remove_leftovers()
        assert os.path.lexists(ring_file.notify_path_of(ring.ring))
        server.close()
    assert not any(map(os.path.lexists, [*paths_left, ring_file.path_of(left[0])]))
