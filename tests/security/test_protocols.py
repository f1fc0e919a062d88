"""What FFmpeg may open: videos, and nothing that a video or a server makes it open besides."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import open_source
from pipeline.errors import SourceError
from pipeline.ffmpeg import open_address, open_file

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
PASSES_OPTIONS = not cv2.__version__.startswith("4.11.")
"""Of this version, FFmpeg gets none of the options."""
SIZE = (160, 120)
WAIT_S = 20.0
HLS = (
    "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
    "#EXTINF:0.5,\n{}\n#EXT-X-ENDLIST\n"
)
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n"


def write_video(path: Path, codec: str) -> Path:
    """Ten frames; skips the test if this OpenCV has no encoder for the codec."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 20.0, SIZE)
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec} into {path.suffix}")
    for number in range(10):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 20 * number, np.uint8))
    writer.release()
    return path


def write_y4m(path: Path) -> Path:
    """Ten bright frames, so that there is no control character in the file's beginning."""
    pixels = SIZE[0] * SIZE[1] * 3 // 2
    head = b"YUV4MPEG2 W%d H%d F20:1 Ip C420jpeg\n" % SIZE
    path.write_bytes(head + 10 * (b"FRAME\n" + bytes([128]) * pixels))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a video that others must not make us open, as `private.ts`."""
    write_video(tmp_path / "private.ts", "mp4v")
    return tmp_path


class Handler(SimpleHTTPRequestHandler):
    """Sends the files of a folder; `/to/ADDRESS` redirects to that address."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The address of a web server of the folder."""

    def handler(*arguments: object) -> Handler:
        return Handler(*arguments, directory=str(folder))

    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def frames_of(text: str, **options: object) -> int:
    with open_source(text, **options) as source:
        return sum(1 for _ in iter(source.read, None))


@pytest.mark.parametrize("name", ["video.mp4", "video.avi", "video.ts", "video"])
@pytest.mark.parametrize("padding", [b"", b"\0" * 512], ids=["text", "not quite text"])
@pytest.mark.parametrize(
    "content",
    [CONCAT.format("private.ts"), HLS.format("private.ts"), SDP],
    ids=["concat", "hls", "sdp"],
)
def test_a_playlist_with_the_name_of_a_video_is_refused(folder, name, padding, content):
    path = folder / name
    path.write_bytes(content.encode() + padding)
    with pytest.raises(SourceError, match="is a playlist"):
        open_source(str(path))
    if PASSES_OPTIONS:
        assert not open_file(path).isOpened()  # FFmpeg refuses it too


@pytest.mark.parametrize(
    ("suffix", "content"), [(".ffconcat", CONCAT), (".m3u8", HLS)], ids=["concat", "hls"]
)
def test_a_playlist_is_opened_if_its_suffix_asks_for_one(folder, suffix, content):
    path = folder / f"list{suffix}"
    path.write_text(content.format("private.ts"))
    assert frames_of(str(path)) == 10


def test_a_playlist_on_this_machine_reaches_no_server(folder, server):
    path = folder / "list.m3u8"
    path.write_text(HLS.format(f"{server}/private.ts"))
    with pytest.raises(SourceError):
        open_source(str(path))
    assert not Handler.asked


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mp4v"), ("a.mov", "mp4v"), ("a.m4v", "mp4v"), ("a.mkv", "mp4v"),
        ("a.webm", "VP80"), ("a.webm", "VP90"), ("a.avi", "MJPG"), ("a.avi", "XVID"),
        ("a.ts", "mpg2"), ("a.mpg", "mpg1"), ("a.flv", "FLV1"),
    ],
)  # fmt: skip
def test_videos_are_opened_as_before(tmp_path, name, codec):
    path = write_video(tmp_path / name, codec)
    assert frames_of(str(path)) == 10
    renamed = path.rename(tmp_path / "video")
    assert frames_of(str(renamed)) == 10


def test_raw_video_is_opened_though_its_beginning_looks_like_text(tmp_path):
    assert frames_of(str(write_y4m(tmp_path / "a.y4m"))) == 10


def test_a_playlist_on_a_server_is_opened(folder, server):
    (folder / "list.m3u8").write_text(HLS.format("private.ts"))
    assert frames_of(f"{server}/list.m3u8", reconnect=False) == 10
    with open_source(f"{server}/to/{server}/private.ts", reconnect=False) as source:
        assert source.read() is not None


@pytest.mark.parametrize(
    "kind", ["hls", "nested", "key", "concat", *(["sdp"] if PASSES_OPTIONS else [])]
)
def test_a_server_makes_nothing_of_this_machine_be_opened(folder, server, kind, tmp_path_factory):
    local = shutil.copy(folder / "private.ts", tmp_path_factory.mktemp("home"))
    (folder / "served").write_text(
        {
            "hls": HLS.format(f"file://{local}"),
            "nested": HLS.format(f"crypto:file://{local}"),
            "key": HLS.format("private.ts").replace(
                "#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="file://{local}"\n#EXTINF'
            ),
            "concat": CONCAT.format(local),
            "sdp": SDP,
        }[kind]
    )
    with pytest.raises(SourceError):
        open_source(f"{server}/served", open_timeout_s=2.0, reconnect=False)


@pytest.mark.parametrize(
    "target",
    ["file://{}", "{}", "concat:{}", "subfile,,start,0,end,9999,,:{}", "ftp://127.0.0.1:9/a.ts"],
)
def test_a_redirect_to_another_protocol_is_refused(folder, server, target):
    address = f"{server}/to/{target.format(folder / 'private.ts')}"
    with pytest.raises(SourceError):
        open_source(address, open_timeout_s=2.0, reconnect=False)


@pytest.mark.skipif(not PASSES_OPTIONS, reason="OpenCV 4.11 passes no options to FFmpeg")
def test_options_of_the_user_count(folder, server, monkeypatch):
    (folder / "list.m3u8").write_text(HLS.format(f"{server}/private.ts"))
    own = "protocol_whitelist;file,http,tcp"
    monkeypatch.setenv(VARIABLE, own)
    assert frames_of(str(folder / "list.m3u8")) == 10
    assert os.environ[VARIABLE] == own


def test_a_file_and_an_address_are_opened_at_the_same_time(folder):
    """Their options differ, and stand in the one environment of the process."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.ts"
        waiting = threading.Thread(
            target=open_address, args=(url, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 500])
        )
        waiting.start()
        with silent.accept()[0]:
            assert frames_of(str(folder / "private.ts")) == 10
            waiting.join()
    assert VARIABLE not in os.environ
