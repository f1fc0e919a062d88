"""Opens videos with FFmpeg inside OpenCV, and limits what FFmpeg may open and allocate.

FFmpeg detects a format by the contents, whatever a file is called, and some formats make it open
further files and addresses. So only formats are allowed whose files hold the video themselves, and
playlists where they are asked for: HLS over http, and files whose suffix says so.

Protocols need no list: by itself FFmpeg lets a file lead to files only, and an http address, also
by a redirect, to http, https, tcp, udp, rtp, tls and crypto (of HLS) only. RTSP redirects to RTSP.

OpenCV 4.11 alone passes no options to FFmpeg. There the first bytes of a file are the only check.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from pipeline.errors import SourceError
from pipeline.images import MAX_PIXELS
from pipeline.opencv_logging import quiet_opening
from pipeline.text.native import utf8

FORMATS = (
    "3gp,apng,asf,av1,avi,dv,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,"
    "mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe,"
    "bmp_pipe,jpeg_pipe,png_pipe,ppm_pipe,tiff_pipe,webp_pipe"
)
"""The names of FFmpeg's demuxers that files and streams may need."""
STREAM_FORMATS = f"{FORMATS},aac,ac3,eac3,flac,hls,mp3,mpjpeg,rtsp,webvtt"
PLAYLISTS = {".ffconcat": "concat", ".m3u": "hls", ".m3u8": "hls", ".sdp": "sdp"}
"""The demuxers of files that name further files, by the suffix with which the user asks for one."""
MAX_BLOCK = 3 * MAX_PIXELS + 2**24
"""The bytes that FFmpeg may allocate at once: a frame of `MAX_PIXELS` in BGR, padded."""

# TCP, because a lost UDP packet smears the image until the next key frame; frames in the order in
# which they arrive. Not FFmpeg's `nobuffer`: it discards what it read to detect the format,
# including the first key frame, and a reader that never waits drains that much in no time.
# And no frames read ahead only to estimate the rate, which saves 0.3 s of a second of opening.
_RTSP_OPTIONS = "rtsp_transport;tcp|flags;low_delay|fpsprobesize;0|"
_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"

_opening = threading.Lock()


def open_file(path: str | os.PathLike[str], parameters: Sequence[int] = ()) -> cv2.VideoCapture:
    """Open a video file, which opens no other files unless its suffix is that of a playlist."""
    playlist = PLAYLISTS.get(Path(path).suffix.lower())
    formats = f"{FORMATS},{playlist}" if playlist else FORMATS
    # An absolute path cannot be mistaken for a protocol.
    return _open(os.path.abspath(path), parameters, f"format_whitelist;{formats}")


def open_address(url: str, parameters: Sequence[int] = ()) -> cv2.VideoCapture:
    """Open an http or rtsp address; nothing that comes from there makes FFmpeg open a file."""
    options = _RTSP_OPTIONS if url.lower().startswith("rtsp") else ""
    return _open(url, parameters, f"{options}format_whitelist;{STREAM_FORMATS}")


def _open(text: str, parameters: Sequence[int], options: str) -> cv2.VideoCapture:
    with _opening, quiet_opening(), _capture_options(options):
        _limit_allocations()
        return cv2.VideoCapture(utf8(text, SourceError), cv2.CAP_FFMPEG, parameters)


@contextlib.contextmanager
def _capture_options(options: str) -> Iterator[None]:
    """Set the options that OpenCV passes to FFmpeg; those of the user come last and so count.

    The variable is one for the process, so videos are opened one after the other, as by OpenCV.
    """
    own = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = f"{options}|{own}" if own else options
    try:
        yield
    finally:
        if own is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = own


def _limit_allocations() -> None:
    """Let FFmpeg allocate no more than a frame needs, whatever size the data state."""
    library = libavutil()
    if library is not None:
        library.av_max_alloc(ctypes.c_size_t(MAX_BLOCK))


@functools.cache
def libavutil() -> ctypes.CDLL | None:
    """FFmpeg's library that this process has loaded; None if it cannot be found."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.rpartition(" ")[2]
        if Path(path).name.startswith("libavutil"):
            return ctypes.CDLL(path)
    return None
