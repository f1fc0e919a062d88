"""Mutated files of every text format, and of Darknet's weights, are read or refused."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.inference.manifest import read_labels, read_manifest
from pipeline.settings.files import load_config
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.weights import layer_shapes, read_weights
from pipeline.zoo.datasets.boxes import read_boxes
from pipeline.zoo.datasets.classes import read_classes
from pipeline.zoo.datasets.yolo import read_yolo_folder

from .fuzzing import mutated

RUNS = 30_000
LIMIT_S = 1.0
"""An input may take this much time of the processor."""
MAX_GROWTH_MB = 200
NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"9" * 400, b"2147483648", b"0x" + b"f" * 40, b".5")
LETTERS = (b"\xff", b"\0", b"\n", b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"'")
COLOURS = ("red", "green")
SETTINGS = [
    b"score: 0.4\nthreads: 2\nevery_frame: false\npeer: [a.key, b.key]\n",
    b"# comment\nsource: 'scene:'\nnms_kind: iou\nrecord: \"out.mp4\"\n",
    b"score: &a 0.5\nnms: *a\n<<: {classifier: none}\n",
    b"? detector\n: >\n  some\n  text\nnms: .5\n",
]
YAML = (b"&a ", b"*a", b"<<: ", b"!!int ", b"!!timestamp ", b"[", b"{", b"- ", b": ", b"---\n")
YAML += (b"%YAML 1.1\n", b"!!binary |\n", b"!!set ", b"1:1:1", b"\\uD800", b"0b1", b"2001-01-01")
CLASSIFIER = b"""task = "classify"
labels = ["red", "green"]
[input]
width = 8
height = 8
dtype = "float32"
scale = 0.1
"""
DETECTOR = b"""task = "detect"
labels = ["red"]
anchors = [[1, 1], [2, 2]]
input = { width = 8, height = 8, layout = "NCHW" }
[[heads]]
output = "a"
mask = [0, 1]
scale_x_y = 1.05
"""
TOML = (b"[[heads]]\n", b"[input]\n", b"a.b.c", b'"""', b"'''", b"= ", b"{", b"[", b"1979-05-27")
TOML += (b'labels = "names.txt"\n', b"\\u0000", b"0o7", b"inf", b"[head]\n", b'family = "yolo"\n')
CFG = b"""[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=18
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=18
size=1
[yolo]
mask=0,1,2
anchors=1,1, 2,2, 3,3
num=3
classes=1
"""
MORE_CFG = CFG.replace(
    b"[yolo]",
    b"[maxpool]\nsize=2\nstride=1\n[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n[shortcut]\n"
    b"from=-3\nactivation=linear\n[upsample]\nstride=2\n[convolutional]\nfilters=18\n[yolo]",
)
DARKNET = (b"[route]\n", b"layers=-1\n", b"[maxpool]\n", b"[shortcut]\nfrom=-2\n", b"[upsample]\n")
DARKNET += (
    b"groups=",
    b"mask=",
    b"num=",
    b",",
    b"#",
    b";",
    b"filters=0\n",
    b"stride=",
    b"[yolo]\n",
)
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1.0, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
).encode()
JSON = (b"null", b"true", b"1e308", b'"\\ud800"', b"[", b"{", b'"id": 2', b'"file_name": "../a"')
VOC = b"""<annotation><filename>a.jpg</filename><size><width>10</width><height>10</height></size>
<object><name>red</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>
<ymax>2</ymax></bndbox></object></annotation>"""
XML = (b"<!DOCTYPE a>", b"<!ENTITY a 'b'>", b"&amp;", b"&#0;", b"<a>", b"</a>", b"<![CDATA[", b"<?")
XML += (b'<?xml version="1.0" encoding="utf-7"?>', b"xmlns:a='b'", b"<object/>", b"&#x110000;")
YOLO = (b"0 0.5 0.5 0.1 0.1\n1 0.1 0.2 0.3 0.4\n", b"1 .5 .5 1e-3 1\n\n0 0 0 0 0\n")
NAMES = (b"names: [red, green]\nnc: 2\n", b"names:\n  0: red\n  1: green\n")


@pytest.fixture
def folder(tmp_path):
    """A folder, in memory if the system has one there: most of the time would go to the disk."""
    memory = "/dev/shm"  # noqa: S108 - a new folder in it
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def file(folder):
    """A function: writes the data to a file of this name, and returns its path."""

    def write(name: str, data: bytes) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(autouse=True)
def _no_log():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def inputs(seeds: Sequence[bytes], words: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Valid inputs, changed at random: pieces of the format inserted, bytes changed, or both."""
    rng = random.Random(1)  # noqa: S311 - the same inputs in every run
    pieces = (*words, *NUMBERS, *LETTERS)
    for _ in range(count):
        data = rng.choice(seeds)
        for _ in range(rng.randrange(4)):
            start = rng.randrange(len(data) + 1)
            end = min(len(data), start + rng.choice((0, 1, 8, 64)))
            repeated = data[start:end] * rng.choice((2, 3, 50))
            data = data[:start] + rng.choice((rng.choice(pieces), repeated)) + data[end:]
        yield mutated(data, rng.choice(seeds), rng) if rng.random() < 0.7 else data


def fuzz(
    read: Callable[[bytes], object],
    seeds: Sequence[bytes],
    words: Sequence[bytes] = (),
    allowed: type[Exception] = InputError,
) -> None:
    """Read inputs made of the seeds, which are valid; some of the changed ones are as well.

    Raises `AssertionError` with the input if reading raises anything but what is `allowed`, takes
    longer than `LIMIT_S`, or if the memory grows by more than `MAX_GROWTH_MB`.
    """
    for seed in seeds:
        read(seed)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs(seeds, words, RUNS):
        started_s = time.thread_time()
        try:
            read(data)
        except allowed:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__} for {data!r}: {error}") from error
        took_s = time.thread_time() - started_s
        assert took_s < LIMIT_S, f"{took_s:.1f} s for {data!r}"
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < MAX_GROWTH_MB, f"the memory grew by {grown_mb:.0f} MB"
    assert RUNS // 100 < refused < RUNS * 99 // 100, "nearly all inputs were valid, or nearly none"


def test_settings(file):
    fuzz(lambda data: load_config(file("a.yaml", data)), SETTINGS, YAML)


def test_manifests(file):
    file("names.txt", b"red\ngreen\n")
    fuzz(lambda data: read_manifest(file("a.toml", data)), [CLASSIFIER, DETECTOR], TOML)


def test_labels(file):
    seeds = [b"red\ngreen\n", "\ufeffété\r\n日本\r\n".encode()]
    fuzz(lambda data: read_labels(file("a.txt", data)), seeds, [b"\n\n", b"\x85", b" "])


def test_darknet_configs(file):
    fuzz(lambda data: layer_shapes(read_config(file("a.cfg", data))), [CFG, MORE_CFG], DARKNET)


def test_darknet_weights(file):
    config = read_config(file("a.cfg", CFG))
    numbers = struct.pack("<iiiq", 0, 2, 5, 1) + bytes(4 * (18 * (27 + 4) + 18 * 19))
    short = struct.pack("<iiii", 0, 1, 5, 1) + numbers[20:]
    fuzz(lambda data: read_weights(config, file("a.weights", data)), [numbers, short])


def test_coco(file):
    file("a.jpg", b"")
    fuzz(lambda data: read_boxes(file("a.json", data), COLOURS), [COCO], JSON)


def test_voc(file):
    fuzz(lambda data: read_boxes(file("a.xml", data).parent, COLOURS), [VOC], XML)


@pytest.fixture
def yolo(folder):
    """A YOLO folder with one image."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "images" / "a.jpg").touch()
    return folder


def test_yolo_boxes(file, yolo):
    fuzz(lambda data: file("labels/a.txt", data) and read_yolo_folder(yolo), YOLO, [b" ", b"2 "])


def test_yolo_names(file, yolo):
    file("labels/a.txt", YOLO[0])
    fuzz(lambda data: file("data.yaml", data) and read_boxes(yolo, COLOURS), NAMES, YAML)


def test_lists_of_images(file):
    seeds = [b"a.jpg red\nb/c d.png green\n", b"# x\na.jpg,red\n", b"a.jpg\tgreen\n"]
    fuzz(lambda data: read_classes(file("a.txt", data), COLOURS), seeds, [b",", b"\t", b"blue"])


def test_a_reader_that_raises_something_else_is_found():
    def read(data: bytes) -> None:
        data.decode()
        if b"\0" in data:
            raise IndexError("found")

    with pytest.raises(AssertionError, match=r"IndexError for b.*found"):
        fuzz(read, [b"abc"], allowed=UnicodeDecodeError)


def test_every_run_has_the_same_inputs():
    assert list(inputs([CFG], DARKNET, 100)) == list(inputs([CFG], DARKNET, 100))
    assert len(set(inputs([CFG], DARKNET, 1000))) > 800
