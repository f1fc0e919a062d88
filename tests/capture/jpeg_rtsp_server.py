"""A small RTSP server for machines without GStreamer: JPEG over RTP, interleaved with RTSP.

    jpeg_rtsp_server.py PORT

Serves `rtsp://127.0.0.1:PORT/cam` as `rtsp_server.py` does, with the same lines on standard input
and output. RTSP is that of RFC 2326, JPEG over RTP that of RFC 2435.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import struct
import sys
import threading
import time

import cv2
import numpy as np

FPS = 30
CELLS = 10  # in a row of the image
BITS = 30
PACKET = 1400
JPEG = 26  # RTP payload type
SAMPLED_420, OWN_TABLES = 1, 255
SDP = f"v=0\r\ns=cam\r\nt=0 0\r\nm=video 0 RTP/AVP {JPEG}\r\na=control:0\r\n"
size = [160, 120]


def clock_picture(width: int, height: int) -> np.ndarray:
    """The milliseconds of the clock, low bit first, as dark and bright cells in rows of ten."""
    milliseconds, cell = time.time_ns() // 1_000_000, width // CELLS
    image = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, CELLS)
        bright = milliseconds >> bit & 1
        image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = (
            224 if bright else 32
        )
    return image


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The quantisation tables and the scan of a baseline JPEG."""
    tables, position = b"", 2
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == 0xFFDB:
            segment = data[position + 4 : position + 2 + length]
            tables += b"".join(segment[i + 1 : i + 65] for i in range(0, len(segment), 65))
        position += 2 + length
        if marker == 0xFFDA:
            return tables, data[position:-2]


def packets(image: np.ndarray, sequence: itertools.count[int], stamp: int) -> bytes:
    """An image as RTP packets, each in the frame of an RTSP connection."""
    height, width = image.shape[:2]
    tables, scan = split_jpeg(cv2.imencode(".jpg", image)[1].tobytes())
    out = []
    for start in range(0, len(scan), PACKET):
        part = scan[start : start + PACKET]
        is_last = start + PACKET >= len(scan)
        rtp = struct.pack(
            *(">BBHII", 0x80, JPEG | is_last << 7, next(sequence) & 0xFFFF, stamp, 0x5EED)
        )
        head = struct.pack(
            *(">II", start, SAMPLED_420 << 24 | OWN_TABLES << 16 | width // 8 << 8 | height // 8)
        )
        if not start:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        packet = rtp + head + part
        out.append(struct.pack(">BBH", ord("$"), 0, len(packet)) + packet)
    return b"".join(out)


class Client:
    """One connection: answers requests, and sends images after PLAY."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._player = threading.Thread(target=self._play, daemon=True)

    def run(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            while first := self._next_line(lines):
                number = "0"
                while (line := lines.readline().decode("latin-1").strip()) != "":
                    name, _, value = line.partition(":")
                    number = value.strip() if name.lower() == "cseq" else number
                self._answer(first.split()[0], number)
        self._ended.set()
        self._connection.close()

    def _next_line(self, lines) -> str:
        """The first line of a request; reports of the client (RTCP) are skipped."""
        while (first := lines.read(1)) == b"$":
            (length,) = struct.unpack(">xH", lines.read(3))
            lines.read(length)
        return (first + lines.readline()).decode("latin-1").strip()

    def _answer(self, method: str, number: str) -> None:
        head, body = {"Session": "1"}, ""
        if method == "OPTIONS":
            head = {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"}
        elif method == "DESCRIBE":
            body, head = SDP, {"Content-Type": "application/sdp"}
        elif method == "SETUP":
            head["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
        lines = [f"{name}: {value}\r\n" for name, value in head.items()]
        length = f"Content-Length: {len(body)}\r\n"
        text = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{''.join(lines)}{length}\r\n{body}"
        with self._lock:
            self._connection.sendall(text.encode())
        if method == "PLAY" and not self._player.is_alive():
            self._player.start()

    def _play(self) -> None:
        sequence, began_s = itertools.count(), time.monotonic()
        with contextlib.suppress(OSError):
            for count in itertools.count(1):
                stamp = round((time.monotonic() - began_s) * 90_000)
                data = packets(clock_picture(*size), sequence, stamp)
                with self._lock:
                    self._connection.sendall(data)
                if self._ended.wait(max(0.0, began_s + count / FPS - time.monotonic())):
                    return


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=Client(connection).run, daemon=True).start()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        size[:] = map(int, re.findall(r"\d+", line))


if __name__ == "__main__":
    main()
