"""The other process of a test, of this or of the other architecture. It prints one JSON object.

`peer.py publish ADDRESS KIND` sends frames and results until its standard input ends;
`peer.py receive ADDRESS KIND COUNT` compares that many of each with what was sent;
`peer.py shrink HEIGHT...` resizes images of these heights with no memory behind their last row;
`peer.py infer PIXELS.npy OUTPUTS.npz` runs both models on an image of the detector's size.

Frames and results are calculated from their number, so that both sides know every byte.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import select
import sys
import time
from collections import Counter

import numpy as np

from pipeline.inference.preprocess import place, resize_into
from pipeline.inference.processor import processor
from pipeline.inference.session import open_model
from pipeline.transport import Publisher, Subscriber
from pipeline.types import Classifications, Detections, Frame, Header, Result

SHAPE = (120, 160, 3)
NUMBERS = 50  # different frames
JPEG_NOISE = 4.0  # mean difference of pixels that pass through JPEG
LABELS = ("cup", "Glühwürmchen", "猫")
WAIT_S = 240.0
NO_ACCESS = 0  # PROT_NONE


def frame(seq: int) -> Frame:
    """A smooth image with a depth plane, made of the frame's number."""
    rows, columns, channels = np.indices(SHAPE)
    value = (rows + 2 * columns + 40 * channels + 5 * seq) // 3 % 256
    image = np.where(value < 128, value, 255 - value).astype(np.uint8)
    depth = np.sqrt(np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32)).reshape(SHAPE[:2]) + seq
    return Frame(image, 10**18 + seq, seq, "front", planes={"depth": depth})


def result(seq: int) -> Result:
    """A result with `seq % 4` classified objects."""
    count = seq % 4
    random = np.random.default_rng(seq)
    corners = random.integers(0, 100, (count, 2)).astype(np.float32)
    boxes = np.hstack([corners, corners + np.float32(7.3)])
    scores = np.sort(random.random(count, np.float32))[::-1].copy()
    found = Detections(
        boxes, scores, random.integers(0, 3, count).astype(np.int32), LABELS,
        random.integers(0, 2**62, count),
    )  # fmt: skip
    ids = np.tile(np.array([2, 0], np.int32), (count, 1))
    names = Classifications(ids, np.tile(np.array([0.7, 0.1], np.float32), (count, 1)), LABELS)
    header = Header("front", seq, 10**18 + seq, SHAPE[1], SHAPE[0], 10**18 + 2 * seq)
    return Result(header, found, names, {"detect": 2**40 + seq})


def difference(got: Frame | Result, kind: str) -> str | None:
    """What of a received frame or result differs from the one of its number."""
    if isinstance(got, Result):
        sent_result = result(got.header.seq)
        pairs = {
            "header": (got.header, sent_result.header),
            "stage_ns": (dict(got.stage_ns), dict(sent_result.stage_ns)),
            "names": (names_of(got), names_of(sent_result)),
        }
        arrays = dict(zip(("boxes", "scores", "tracks", "classes"), zip(
            arrays_of(got), arrays_of(sent_result), strict=True), strict=True))  # fmt: skip
    else:
        sent = frame(got.seq)
        pairs = {"stamp": (got.stamp_ns, sent.stamp_ns), "camera": (got.camera, sent.camera)}
        arrays = {"depth": (got.planes["depth"], sent.planes["depth"])}
        if kind == "jpeg":
            noise = np.abs(got.image.astype(int) - sent.image).mean()
            pairs["image"] = (bool(noise < JPEG_NOISE), True)
        else:
            arrays["image"] = (got.image, sent.image)
    different = [name for name, (a, b) in pairs.items() if a != b]
    different += [
        name for name, (a, b) in arrays.items() if a.dtype != b.dtype or not np.array_equal(a, b)
    ]
    return ", ".join(different) or None


def arrays_of(item: Result) -> tuple[np.ndarray, ...]:
    found, named = item.detections, item.classifications
    return found.boxes, found.scores, found.track_ids, named.scores


def names_of(item: Result) -> list[list[str]]:
    found, named = item.detections, item.classifications
    return [
        [found.labels[number], *(named.labels[each] for each in row)]
        for number, row in zip(found.class_ids, named.ids, strict=True)
    ]


def publish(address: str, kind: str) -> dict[str, object]:
    with Publisher(address, payload=kind, quality=95) as publisher:
        seq = 0
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            if publisher.has_subscribers():
                publisher.send_frame(frame(seq % NUMBERS))
                publisher.send_result(result(seq % NUMBERS))
                seq += 1
        return {"counts": {topic: dict(count) for topic, count in publisher.counts.items()}}


def receive(address: str, kind: str, count: str) -> dict[str, object]:
    seen: Counter[str] = Counter()
    payloads: Counter[str] = Counter()
    wrong: list[str] = []
    deadline = time.monotonic() + WAIT_S
    with Subscriber(address, frames=True, results=True, every=True) as subscriber:
        while (seen["Frame"] < int(count) or seen["Result"] < int(count)) and not wrong:
            received = subscriber.receive(1.0)
            if received is not None:
                seen[type(received.item).__name__] += 1
                payloads[getattr(received.header, "kind", "result")] += 1
                if text := difference(received.item, kind):
                    wrong.append(f"{type(received.item).__name__}: {text}")
            elif time.monotonic() > deadline:
                break
        counts = {topic: dict(counted) for topic, counted in subscriber.counts.items()}
    return {"seen": seen, "payloads": payloads, "wrong": wrong, "counts": counts}


def infer(source: str, target: str) -> dict[str, object]:
    pixels = np.load(source)
    outputs = open_model("yolov4-tiny-int8").run(pixels[None])
    outputs += open_model("mobilenetv2-int8").run(
        np.ascontiguousarray(pixels[None, 96:320, 96:320])
    )
    np.savez(target, *outputs)
    return {"features": sorted(processor().features)}


def shrink(*heights: str) -> dict[str, object]:
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    means = []
    for height in map(int, heights):
        nbytes = height * 640 * 3
        end = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = np.frombuffer(mmap.mmap(-1, end + mmap.PAGESIZE), np.uint8)
        if protect(memory.ctypes.data + end, mmap.PAGESIZE, NO_ACCESS):
            raise OSError("mprotect failed")
        image = memory[end - nbytes : end].reshape(height, 640, 3)
        image[:] = 200
        out = np.empty((416, 416, 3), np.uint8)
        resize_into(image, out, place(640, height, 416, 416, "stretch"))
        means.append(float(out.mean()))
    return {"means": means}


if __name__ == "__main__":
    does = {"publish": publish, "receive": receive, "infer": infer, "shrink": shrink}[sys.argv[1]]
    print(json.dumps(does(*sys.argv[2:])), flush=True)  # noqa: T201 - its answer
