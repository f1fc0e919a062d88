"""Downloads from servers and indexes that send damaged, huge or endless files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from pipeline.errors import InputError, RunError
from pipeline.files import scratch
from pipeline.zoo import download, wheels
from pipeline.zoo.pull import pull
from pipeline.zoo.wheels import WheelMember, read_member

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60
CONTENT = bytes(range(256)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = "parcel/weights.bin"
WHEEL = "parcel-1.0-py3-none-any.whl"
BOMB = 64 * 2**20
REGISTRY = """
version = 1
[models.parcel]
task = "classify"
family = "none"
about = "bytes"
licence = "none"
[[models.parcel.files]]
name = "parcel.onnx"
bytes = {size}
sha256 = "{sha256}"
sources = [{sources}]
"""


def wheel(content: bytes = CONTENT, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    """A wheel that pip accepts, with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(MEMBER, content, compress_type=method)
        archive.writestr(
            "parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n"
        )
        archive.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("parcel-1.0.dist-info/RECORD", "")
    return bytearray(file.getvalue())


def patched(start: bytes, offset: int, form: str, value: int, data: bytearray) -> bytearray:
    """The wheel with a field changed, `offset` bytes after the first `start`."""
    struct.pack_into(form, data, data.index(start) + offset, value)
    return data


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def damaged():
    data = wheel()
    place = data.index(MEMBER.encode()) + len(MEMBER)
    data[place : place + 40] = bytes(40)
    return data


def encrypted():
    return patched(CENTRAL, 8, "<H", 1, patched(LOCAL, 6, "<H", 1, wheel()))


def of_unknown_method():
    return patched(CENTRAL, 10, "<H", 97, patched(LOCAL, 8, "<H", 97, wheel()))


def bomb():
    return wheel(bytes(BOMB))


def bomb_of_another_size():
    """Its list of files says that the file has the expected size."""
    return patched(CENTRAL, 24, "<I", len(CONTENT), wheel(bytes(BOMB)))


def bzip2_bomb():
    data = wheel(bytes(BOMB), zipfile.ZIP_BZIP2)
    return patched(CENTRAL, 24, "<I", len(CONTENT), data)


def lzma_bomb():
    data = wheel(bytes(BOMB // 4), zipfile.ZIP_LZMA)
    return patched(CENTRAL, 24, "<I", len(CONTENT), data)


def truncated():
    return wheel()[:-30]


def empty():
    return bytearray()


WHEELS = [
    damaged, encrypted, of_unknown_method, bomb, bomb_of_another_size, bzip2_bomb, lzma_bomb,
    truncated, empty,
]  # fmt: skip


class Server:
    """Serves bytes by path; a path with an event waits for it, and `/drip` never ends."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.ending = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def offer(self, data: bytes | bytearray) -> None:
        """Publish a wheel on the index."""
        self.files["/simple/parcel"] = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
        self.files[f"/files/{WHEEL}"] = bytes(data)

    def close(self) -> None:
        self.ending.set()
        for gate in self.gates.values():
            gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Server

    def do_GET(self) -> None:
        self.owner.asked.append(self.path)
        if self.path.startswith("/drip"):
            self._drip()
            return
        gate = self.owner.gates.get(self.path)
        if gate is not None:
            gate.wait(WAIT_S)
        data = self.owner.files.get(self.path.rstrip("/"))
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        kind = "text/html" if self.path.startswith("/simple") else "application/zip"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drip(self) -> None:
        """Send a byte now and then: of the headers, or of the file."""
        if self.path == "/drip-body":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        with contextlib.suppress(OSError):  # the client has gone
            while not self.owner.ending.wait(0.05):
                self.wfile.write(b"x")
                self.wfile.flush()

    def log_message(self, *_args: object) -> None:
        """The tests read `asked`."""


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Empty folders for models, the cache and temporary files."""
    for name in ("models", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("VISION_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.fixture
def register(place, server):
    """Write a registry with the sources of one model."""

    def register(*sources: str) -> None:
        text = REGISTRY.format(size=len(CONTENT), sha256=SHA256, sources=", ".join(sources))
        (place / "models" / "registry.toml").write_text(text)

    return register


FROM_WHEEL = f'{{ wheel = "parcel", version = "1.0", member = "{MEMBER}" }}'


@pytest.mark.parametrize("make", WHEELS, ids=lambda make: make.__name__)
def test_the_next_source_is_asked_after_a_bad_wheel(server, register, place, make):
    server.offer(make())
    server.files["/good"] = CONTENT
    register(FROM_WHEEL, f'{{ url = "{server.url}/good" }}')
    said: list[str] = []
    assert pull("parcel", say=said.append).read_bytes() == CONTENT
    assert len(said) == 1
    assert "parcel==1.0: " in said[0]
    assert "trying the next source" in said[0]
    assert list((place / "temporary").iterdir()) == []


def test_a_good_wheel_is_used(server, register):
    server.offer(wheel())
    register(FROM_WHEEL)
    assert pull("parcel", say=print).read_bytes() == CONTENT


@pytest.mark.parametrize("make", WHEELS, ids=lambda make: make.__name__)
def test_a_bad_wheel_takes_no_more_memory_than_the_file(tmp_path, make):
    file = tmp_path / WHEEL
    file.write_bytes(make())
    member = WheelMember("parcel==1.0", MEMBER, SHA256, len(CONTENT))
    found = None
    tracemalloc.start()
    try:
        with contextlib.suppress(InputError):  # else its SHA-256 is another one
            found = read_member(file, member)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found != CONTENT
    assert peak < 4 * 2**20


def many_files(comment: bytes = b"") -> bytes:
    """An archive with a list of more files than there is memory for."""
    size = wheels._LARGEST_DIRECTORY + 1
    return (
        bytes(size)
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, size, 0, len(comment))
        + (comment)
    )


def hidden_list() -> bytes:
    """The same, with a second end inside the first one that says otherwise."""
    end = struct.pack("<4sIHHIIH", b"PK\5\6", 0x06054B50, 0, 0, wheels._LARGEST_DIRECTORY + 1, 0, 0)
    return bytes(100) + end


def second_end() -> bytes:
    """With an end for large archives, whose list may be anywhere."""
    large = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    return bytes(100) + large + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [many_files(), many_files(b"comment"), hidden_list(), second_end()],
    ids=["large", "with-comment", "hidden", "second-end"],
)
def test_the_list_of_files_is_limited(tmp_path, data):
    file = tmp_path / WHEEL
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"list of files has 16 MiB|no ZIP archive"):
        read_member(file, WheelMember("parcel==1.0", MEMBER, SHA256))


@pytest.mark.parametrize("how", ["drip-body", "drip-headers"])
def test_a_source_that_never_ends_is_given_up(server, register, monkeypatch, crowding, how):
    monkeypatch.setattr(download, "CONNECT_S", 1.0)
    server.files["/good"] = CONTENT
    register(f'{{ url = "{server.url}/{how}" }}', f'{{ url = "{server.url}/good" }}')
    said: list[str] = []
    before_s = time.monotonic()
    assert pull("parcel", say=said.append).read_bytes() == CONTENT
    assert time.monotonic() - before_s < 3 * crowding()
    assert "does not send the 5120 bytes of parcel.onnx within 2 s" in said[0]


def test_pip_is_given_up_too(server, register, place, monkeypatch):
    monkeypatch.setattr(wheels, "DOWNLOAD_S", 1.0)
    server.offer(wheel())
    server.gates[f"/files/{WHEEL}"] = threading.Event()
    register(FROM_WHEEL)
    with pytest.raises(RunError, match=r"parcel==1\.0: pip download did not finish"):
        pull("parcel", say=print)
    assert list((place / "temporary").iterdir()) == []


def test_what_a_killed_pull_leaves_is_removed_by_the_next_one(server, register, place):
    server.offer(wheel())
    gate = server.gates[f"/files/{WHEEL}"] = threading.Event()
    register(FROM_WHEEL)
    command = [sys.executable, "-m", "pipeline.cli", "models", "pull", "parcel"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while f"/files/{WHEEL}" not in server.asked:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (pip,) = psutil.Process(process.pid).children()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
    pip.kill()
    (left,) = (place / "temporary").iterdir()  # all of it, also pip's
    (place / "temporary" / "vision-work-file").touch()
    os.utime(left, (0, 0))
    gate.set()
    assert pull("parcel", say=print).read_bytes() == CONTENT
    assert [path.name for path in (place / "temporary").iterdir()] == ["vision-work-file"]


def test_folders_that_are_in_use_or_new_are_kept(place):
    with scratch.scratch_folder() as used:
        os.utime(used, (0, 0))
        fresh = used.with_name("vision-work-fresh")
        fresh.mkdir()
        linked = used.with_name("vision-work-link")
        linked.symlink_to(place / "models")
        scratch.remove_leftovers(used.parent)
        assert {used, fresh, linked} == set(used.parent.iterdir())
        assert (place / "models").is_dir()
    assert not used.exists()
