"""The program of the child process of `readers.ChildReader`: one frame per line on its socket."""

from __future__ import annotations

import importlib
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

from pipeline.capture.readers import ALIGNMENT, Request
from pipeline.source import Source, SourceOptions
from pipeline.types import Frame


def main() -> None:
    """Serve the parent on the socket and the memory whose descriptors are the arguments."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    wishes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(channel.makefile("rb"), wishes), daemon=True)
    listener.start()
    cv2.setNumThreads(1)
    with open(int(sys.argv[2]), "r+b") as memory:
        _serve(channel, wishes, SharedArrays(memory))


def _listen(lines: BinaryIO, wishes: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in lines:
        wishes.put(json.loads(line))
    os._exit(0)  # the parent is gone, and the source may hang: nothing else ends the process


def _serve(
    channel: socket.socket, wishes: queue.SimpleQueue[dict[str, Any]], arrays: SharedArrays
) -> None:
    source: Source[Frame] | None = None
    while True:
        wish = wishes.get()
        try:
            if source is None:
                source = _opened(**wish)
                answer: dict[str, Any] = {
                    "camera": source.camera,
                    "live": source.live,
                    "frames": source.frames,
                    "fps": source.fps,
                }
            else:
                frame = source.read()
                answer = {} if frame is None else _described(frame, arrays)
        except Exception as error:  # the parent raises it, whatever it is
            answer = {"error": type(error).__name__, "message": str(error)}
        channel.sendall(json.dumps(answer).encode() + b"\n")


def _opened(
    module: str, function: str, text: str, options: dict[str, Any], again: bool
) -> Source[Frame]:
    connect = getattr(importlib.import_module(module), function)
    source: Source[Frame] = connect(Request(text, SourceOptions(**options), again))
    return source


def _described(frame: Frame, arrays: SharedArrays) -> dict[str, Any]:
    fields = {
        "stamp_ns": frame.stamp_ns,
        "seq": frame.seq,
        "read_ns": frame.read_ns,
        "recorded": frame.recorded,
    }
    return {"fields": fields, "arrays": arrays.write({"": frame.image, **frame.planes})}


class SharedArrays:
    """Memory for the arrays of one frame, shared with the parent; grows with the largest frame."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._memory: mmap.mmap | None = None

    def write(self, arrays: dict[str, np.ndarray[Any, Any]]) -> list[list[Any]]:
        """Write the arrays; returns the name, offset, shape and dtype of each."""
        places = []
        end = 0
        for name, array in arrays.items():
            places.append([name, end, array.shape, array.dtype.str])
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if self._memory is None or len(self._memory) < end:
            self._file.truncate(end)
            self._memory = mmap.mmap(self._file.fileno(), end)
        for (_, offset, shape, dtype), array in zip(places, arrays.values(), strict=True):
            shared = np.frombuffer(self._memory, dtype, array.size, offset).reshape(shape)
            np.copyto(shared, array)
        return places


if __name__ == "__main__":
    main()
