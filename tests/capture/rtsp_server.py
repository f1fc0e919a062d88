"""A real RTSP server, GStreamer's, run with the Python that Debian's bindings belong to.

    rtsp_server.py PORT

Serves `rtsp://127.0.0.1:PORT/cam`: H.264, 30 frames a second, each frame showing the time at which
it was made. Prints "ready" once it listens. Lines on standard input: `size 320x240` changes the
size of the images; the end of the input ends the server.
"""

from __future__ import annotations

import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

FPS = 30
CELLS = 10  # in a row of the image
BITS = 30
ENCODE = (
    "videoconvert ! video/x-raw,format=I420 "
    "! x264enc tune=zerolatency sliced-threads=false threads=1 speed-preset=ultrafast "
    "bitrate=2000 key-int-max=15 ! video/x-h264,profile=baseline "
    "! rtph264pay name=pay0 pt=96 config-interval=-1"
)


def caps(width: int, height: int) -> str:
    return f"video/x-raw,format=GRAY8,width={width},height={height},framerate={FPS}/1"


def clock_picture(width: int, height: int) -> bytes:
    """The milliseconds of the clock, low bit first, as dark and bright cells in rows of ten."""
    milliseconds = time.time_ns() // 1_000_000
    cell, rows = width // CELLS, []
    for first in range(0, BITS, CELLS):
        bits = [milliseconds >> bit & 1 for bit in range(first, first + CELLS)]
        rows.append(b"".join((b"\xe0" if bit else b"\x20") * cell for bit in bits) * cell)
    return b"".join(rows).ljust(width * height, b"\x80")


class Camera(GstRtspServer.RTSPMediaFactory):
    def __init__(self) -> None:
        super().__init__()
        self.size = (160, 120)
        self.sources: list[Gst.Element] = []
        self.set_shared(True)
        GLib.timeout_add(1000 // FPS, self.push)

    def do_create_element(self, _url: object) -> Gst.Element:
        source = (
            f"appsrc name=camera is-live=true do-timestamp=true format=time caps={caps(*self.size)}"
        )
        return Gst.parse_launch(f"( {source} ! {ENCODE} )")

    def add(self, media: GstRtspServer.RTSPMedia) -> None:
        source = media.get_element().get_by_name_recurse_up("camera")
        self.sources.append(source)
        media.connect("unprepared", lambda _: self.sources.remove(source))

    def push(self) -> bool:
        for source in self.sources:
            # One that does not run yet has no time to stamp images with: it would take the time
            # since the machine was started, and the stream would wait until it is that late.
            if source.get_state(0).state == Gst.State.PLAYING:
                source.emit("push-buffer", Gst.Buffer.new_wrapped(clock_picture(*self.size)))
        return True

    def resize(self, width: int, height: int) -> None:
        self.size = (width, height)
        for source in self.sources:
            source.set_property("caps", Gst.Caps.from_string(caps(width, height)))


def obey(camera: Camera, loop: GLib.MainLoop) -> None:
    for line in sys.stdin:
        width, height = line.removeprefix("size").split("x")
        GLib.idle_add(camera.resize, int(width), int(height))
    GLib.idle_add(loop.quit)


def main() -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    camera = Camera()
    camera.connect("media-configure", lambda _, media: camera.add(media))
    server.get_mount_points().add_factory("/cam", camera)
    if not server.attach(None):
        sys.exit(f"port {sys.argv[1]} is taken")
    loop = GLib.MainLoop()
    threading.Thread(target=obey, args=(camera, loop), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop.run()


if __name__ == "__main__":
    main()
