"""Readers of text formats refuse hostile files within a second, with one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import threading
import time

import numpy as np
import pytest

from pipeline.errors import FrameError, InputError, VisionError
from pipeline.images import read_image
from pipeline.inference.manifest import read_labels, read_manifest
from pipeline.settings.files import load_config
from pipeline.text.files import TEXT_LIMIT, read_bytes, read_text
from pipeline.text.formats import parse_toml, parse_yaml
from pipeline.transport.zmq.keys import load_key_pair, load_public_key
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.weights import read_weights
from pipeline.zoo.datasets.boxes import read_boxes
from pipeline.zoo.datasets.classes import read_classes
from recipes.torch_file import load_state_dict

LIMIT_S = 1.0
SIZE = TEXT_LIMIT
COLOURS = ("red", "green")


def refused(read, *arguments) -> str:
    """The message of the refusal, which takes less than a second of this thread's time."""
    started_s = time.thread_time()
    with pytest.raises(VisionError) as caught:
        read(*arguments)
    assert time.thread_time() - started_s < LIMIT_S
    message = str(caught.value)
    assert len(message) < 500
    return message


def bomb(form: str, levels: int = 12) -> str:
    """A YAML mapping whose last value holds 9 ** `levels` others."""
    lines = ["v0: &v0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*v{level - 1}"] * 9)
        lines.append(f"v{level}: &v{level} {form.format(aliases)}")
    return "\n".join(lines)


YAML = {
    "bomb-of-lists": bomb("[{}]"),
    "bomb-in-a-value": f"{bomb('[{}]')}\nscore: *v11",
    "bomb-of-merges": bomb("{{<<: [{}]}}").replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}"),
    "bomb-at-the-root": "- " + bomb("[{}]").replace("\n", "\n  "),
    "long-text-repeated": f"a: &a {'x' * 100_000}\nb: [{'*a, ' * 30_000}]",
    "contains-itself": "a: &a [*a]",
    "deep-lists": "[" * 10_000,
    "deep-mappings": "{a: " * 10_000,
    "deep-blocks": "- " * 10_000,
    "many-values": "- 1\n" * (SIZE // 4),
    "many-empty-lists": f"[{'[],' * (SIZE // 4)}]",
    "many-documents": "---\n" * (SIZE // 4),
    "number-of-5000-digits": f"score: {'9' * 5000}",
    "number-in-base-60": f"score: 1{':1' * 5000}",
    "number-in-base-16": f"score: 0x{'f' * 5000}",
    "float-in-base-60": f"score: 1{':1' * 5000}.0",
    "half-a-surrogate-pair": 'record: "\\uD800"',
    "no-timestamp": "a: !!timestamp x",
    "no-switch": "a: !!bool maybe",
    "no-number": "a: !!int ''",
    "no-date": "a: 2001-99-99",
    "list-as-a-key": "? [a]\n: b",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_hostile_yaml_is_refused(text, tmp_path):
    assert "not valid YAML: " in refused(parse_yaml, text, "file")
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    assert str(path) in refused(load_config, path)


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_hostile_class_names_of_a_yolo_folder_are_refused(text, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "data.yaml").write_text(text)
    assert "data.yaml" in refused(read_boxes, tmp_path, COLOURS)


TOML = {
    "dotted-key": f"{'a.' * (SIZE // 3)}a=1",
    "dotted-key-of-quotes": f"{chr(34)}a{chr(34)}." * (SIZE // 5) + "a=1",
    "dotted-key-of-escapes": '"\\"".' * (SIZE // 6) + "a=1",
    "dotted-key-with-spaces": f"{'a . ' * (SIZE // 5)}a=1",
    "dotted-table": f"[{'a.' * (SIZE // 3)}a]",
    "dotted-key-inside": f"a={{{'a.' * (SIZE // 3)}a=1}}",
    "deep-lists": f"a={'[' * (SIZE // 2)}",
    "deep-tables": f"a={'{a=' * (SIZE // 4)}",
    "number-of-5000-digits": f"a={'9' * 5000}",
    "number-in-base-16": f"a=0x{'F' * 5000}",
    "open-list": f"a=[{'1,' * (SIZE // 4)}",
    "open-text": 'a="' + '\\"' * (SIZE // 3),
    "quotes": '"' * (SIZE - 1),
    "words": "a " * (SIZE // 2),
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_hostile_toml_is_refused(text, tmp_path):
    assert "not valid TOML: " in refused(parse_toml, text, "file")
    path = tmp_path / "model.toml"
    path.write_text(text)
    assert str(path) in refused(read_manifest, path)


def test_usual_yaml_and_toml_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: *a\n<<: {c: 3}", "file").content == {
        "a": [1, 2],
        "b": [1, 2],
        "c": 3,
    }
    assert parse_yaml("a: 1\na: 2", "file").keys == ["a", "a"]
    labels = [f"class {number}" for number in range(10_000)]
    assert parse_yaml(f"names: {labels}", "file").content == {"names": labels}
    assert parse_toml('[a.b.c]\nd.e = "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16"', "file")


# Everything that reads a file which the user names.
READERS = {
    "settings": (load_config, "robot.yaml"),
    "manifest": (read_manifest, "model.toml"),
    "labels": (read_labels, "labels.txt"),
    "key": (load_key_pair, "a.key_secret"),
    "public key": (load_public_key, "a.key"),
    "cfg": (read_config, "a.cfg"),
    "coco": (lambda path: read_boxes(path, COLOURS), "a.json"),
    "list": (lambda path: read_classes(path, COLOURS), "a.txt"),
    "image": (read_image, "a.jpg"),
    "torch": (load_state_dict, "a.pth"),
}


@pytest.fixture(params=READERS.values(), ids=READERS)
def reader(request, tmp_path):
    """A reader, and a path with the suffix that it reads."""
    read, name = request.param
    return read, tmp_path / name


def test_a_pipe_is_refused_at_once(reader):
    read, path = reader
    os.mkfifo(path)
    rescue = threading.Timer(20, lambda: os.close(os.open(path, os.O_RDWR)))
    rescue.start()
    try:
        assert str(path) in refused(read, path)
        assert rescue.is_alive(), "the reader waited for a writer"
    finally:
        rescue.cancel()


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty"])
def test_a_device_is_refused(reader, target):
    read, path = reader
    path.symlink_to(target)
    assert str(path) in refused(read, path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(reader):
    read, path = reader
    with path.open("wb") as file:
        file.truncate(1 << 40)  # without blocks on the disk
    assert str(path) in refused(read, path)


@pytest.mark.parametrize("name", ["loop", "x" * 300, "null\0", "half\ud800"])
def test_a_name_that_no_file_can_have_is_refused(reader, name):
    read, path = reader
    path = path.with_name(f"{name}{path.suffix}")
    if name == "loop":
        path.symlink_to(path)
    refused(read, path)


def test_a_file_that_is_longer_than_it_says_is_refused():
    with pytest.raises(InputError, match="grows"):
        read_bytes("/proc/self/status", 10_000)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="expected text in UTF-8, but byte 3 is not"):
        read_text(path)


def test_images_say_that_they_are_no_files(tmp_path):
    with pytest.raises(FrameError, match="expected a regular file, but it is a folder"):
        read_image(tmp_path)


def coco(path, **changes):
    """A COCO file of one image with one box, with changed entries."""
    image = {"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    entries = {
        "images": [{**image, **changes.get("image", {})}],
        "annotations": [{**box, **changes.get("box", {})}],
        "categories": [{"id": 1, "name": "red"}],
    }

    path.write_text(json.dumps(entries))
    return path


COCO = {
    "long-name": {"image": {"file_name": "x" * 300}},
    "null-in-the-name": {"image": {"file_name": "a\0.jpg"}},
    "wide": {"image": {"width": 10**300}},
    "wide-by-a-digit": {"image": {"width": 10**9}},
    "wide-box": {"box": {"bbox": [0, 0, 10**300, 1]}},
    "area": {"image": {"height": 10**18}, "box": {"area": 10**300}},
}


@pytest.mark.parametrize("changes", COCO.values(), ids=COCO)
def test_hostile_coco_is_refused(changes, tmp_path):
    assert "a.json" in refused(read_boxes, coco(tmp_path / "a.json", **changes), COLOURS)


def voc(path, name="a.jpg", width="10", encoding="utf-8", head=""):
    text = (
        f"{head}<annotation><filename>{name}</filename><size><width>{width}</width>"
        "<height>10</height></size><object><name>red</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>"
    )
    path.write_bytes(text.encode(encoding))


def test_a_voc_file_with_a_long_name_lists_a_missing_image(tmp_path):
    voc(tmp_path / "a.xml", name="x" * 300)
    (image,) = read_boxes(tmp_path, COLOURS)
    assert not os.path.isfile(image.path)


@pytest.mark.parametrize("width", ["1" + "0" * 300, "9" * 5000, "1000000000", "0", "-1"])
def test_a_voc_file_of_an_impossible_size_is_refused(width, tmp_path):
    voc(tmp_path / "a.xml", width=width)
    assert "a.xml" in refused(read_boxes, tmp_path, COLOURS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_in_a_voc_file_are_refused(encoding, tmp_path):
    head = '<!DOCTYPE a [<!ENTITY b "' + "b" * 1000 + '">]>'
    voc(tmp_path / "a.xml", name="&b;" * 100, head=head, encoding=encoding)
    assert "declares no entities" in refused(read_boxes, tmp_path, COLOURS)


CFG = """[net]
width=32
height=32
[convolutional]
filters=18
[yolo]
anchors=1,1, 2,2, 3,3
num=3
mask=0,1,2
classes=1
"""
DARKNET = {
    "empty-mask": CFG.replace("mask=0,1,2", "mask=").replace("anchors=1,1, 2,2, 3,3", "")
    .replace("num=3\n", ""),
    "no-anchors": CFG.replace("anchors=1,1, 2,2, 3,3", "anchors="),
    "digits": CFG.replace("filters=18", f"filters={'9' * 5000}"),
    "large": CFG.replace("filters=18", f"filters={'9' * 300}"),
    "large-anchors": CFG.replace("1,1,", "1e300,1,"),
    "infinite-anchors": CFG.replace("1,1,", "inf,1,"),
    "no-number": CFG.replace("1,1,", "nan,1,"),
    "long-line": CFG + "x" * 100_000,
    "many-sections": "[net]\n" * (SIZE // 7),
    "many-layers": CFG + "[convolutional]\n" * (SIZE // 20),
}  # fmt: skip


@pytest.mark.parametrize("text", DARKNET.values(), ids=DARKNET)
def test_hostile_darknet_files_are_refused(text, tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text(text)
    (tmp_path / "a.weights").write_bytes(bytes(20))
    assert "a." in refused(lambda: read_weights(read_config(path), tmp_path / "a.weights"))


def test_weights_larger_than_the_network_are_not_read(tmp_path):
    (tmp_path / "a.cfg").write_text(CFG)
    with (tmp_path / "a.weights").open("wb") as file:
        file.truncate(1 << 40)
    config = read_config(tmp_path / "a.cfg")
    assert "too long" in refused(read_weights, config, tmp_path / "a.weights")


def torch_file(tree: bytes, keys: bytes = b"") -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    magic = 0x1950A86A20F9469CFC6C
    head = b"".join(pickle.dumps(item, 2) for item in (magic, 1001, system))
    return head + tree + (keys or pickle.dumps([], 2))


def shared_tuples(levels: int = 40) -> bytes:
    """The pickle of {t: 1}, where t is a tuple of twice the same tuple, `levels` deep."""
    data = io.BytesIO()
    data.write(b"\x80\x02})q\x00")
    for level in range(levels):
        data.write(b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]))
    data.write(b"h" + bytes([levels]) + b"K\x01s.")
    return data.getvalue()


TORCH = {
    "shared-tuples": torch_file(shared_tuples()),
    "far-place-in-the-memo": torch_file(b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."),
    "long-text": torch_file(b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x"),
    "long-number": torch_file(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x"),
    "digits": torch_file(b"I" + b"9" * 100_000 + b"\n."),
    "deep": torch_file(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "cut": torch_file(pickle.dumps({"a": 1}, 2)[:-3], keys=b"\x80"),
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("data", TORCH.values(), ids=TORCH)
def test_hostile_torch_files_are_refused(data, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    assert str(path) in refused(load_state_dict, path)


def test_a_torch_file_damaged_anywhere_is_read_or_refused(tmp_path):
    good = torch_file(pickle.dumps({"a": 1, "b": ("c", 2.0)}, 2))
    path = tmp_path / "a.pth"
    random = np.random.default_rng(7)
    for _ in range(300):
        data = bytearray(good)
        data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(data)
        refused(load_state_dict, path)


def test_reading_a_large_coco_file_shows_progress(tmp_path):
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    path = coco(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["annotations"] = [entry] * 50_000
    path.write_text(json.dumps(content))
    (tmp_path / "a.jpg").touch()
    reports = []
    read_boxes(path, COLOURS, report=lambda *report: reports.append(report))
    assert reports[0] == ("reading boxes", 0, 50_000)
    assert reports[-1] == ("reading boxes", 50_000, 50_000)
    assert len(reports) == 11


def test_reading_a_small_data_set_shows_none(tmp_path):
    (tmp_path / "a.jpg").touch()
    read_boxes(coco(tmp_path / "a.json"), COLOURS, report=pytest.fail)
