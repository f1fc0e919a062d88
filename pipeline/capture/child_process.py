"""What runs in the child process of `capture.child`: one frame for each line that asks for one."""

from __future__ import annotations

import json
import mmap
import os
import queue
import socket
import sys
import threading
from typing import Any, BinaryIO

import cv2
import numpy as np

from pipeline.capture.live import Request
from pipeline.capture.open import open_plain
from pipeline.source import Source
from pipeline.types import Frame


def main() -> None:
    """Serve the parent on the socket and the memory whose descriptors are the arguments."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    wishes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(channel.makefile("rb"), wishes), daemon=True)
    listener.start()
    cv2.setNumThreads(1)
    with open(int(sys.argv[2]), "r+b") as memory:
        _serve(channel, wishes, Picture(memory))


def _listen(lines: BinaryIO, wishes: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in lines:
        wishes.put(json.loads(line))
    os._exit(0)  # the parent is gone, and the source may hang: nothing else ends us for sure


def _serve(
    channel: socket.socket, wishes: queue.SimpleQueue[dict[str, Any]], picture: Picture
) -> None:
    source: Source[Frame] | None = None
    while True:
        wish = wishes.get()
        try:
            if source is None:
                source = open_plain(Request(**wish))
                answer: dict[str, Any] = {
                    name: getattr(source, name) for name in ("camera", "live", "frames", "fps")
                }
            else:
                answer = _described(source.read(), picture)
        except Exception as error:  # whatever it is, the parent gets to see it
            answer = {"error": type(error).__name__, "message": str(error)}
        channel.sendall(json.dumps(answer).encode() + b"\n")


def _described(frame: Frame | None, picture: Picture) -> dict[str, Any]:
    if frame is None:
        return {"end": True}
    picture.write(frame)
    return {"shape": frame.image.shape, "stamp_ns": frame.stamp_ns, "seq": frame.seq}


class Picture:
    """Memory for one picture, shared with the parent, as large as the largest so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._memory: mmap.mmap | None = None

    def write(self, frame: Frame) -> None:
        image = frame.image
        if self._memory is None or len(self._memory) < image.nbytes:
            self._file.truncate(image.nbytes)
            self._memory = mmap.mmap(self._file.fileno(), image.nbytes)
        np.copyto(np.frombuffer(self._memory, np.uint8, image.size).reshape(image.shape), image)


if __name__ == "__main__":
    main()
