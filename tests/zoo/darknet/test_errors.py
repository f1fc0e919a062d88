"""Errors of the importer name file, line and numbers, and leave no file."""

from __future__ import annotations

import re

import pytest

from pipeline.errors import ModelError, OutputError
from pipeline.inference.manifest import read_labels
from pipeline.zoo.darknet.config import read_config
from pipeline.zoo.darknet.importer import import_model

GOOD = """[net]
width=32
height=32
channels=3

[convolutional]
filters=18
size=1
activation=linear

[yolo]
mask=0,1,2
anchors=4,4, 8,8, 16,16
classes=1
num=3
"""
LAST = "[convolutional]\nfilters=18\nactivation=linear\n[yolo]"
WEIGHTS_BYTES = 20 + 4 * (18 + 18 * 3)


@pytest.fixture
def network(tmp_path):
    """A valid cfg and weights; a test damages one of them."""
    config, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    config.write_text(GOOD)
    weights.write_bytes(b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(WEIGHTS_BYTES - 12))
    return config, weights, tmp_path / "out" / "net.onnx"


def message_of(network, **options):
    with pytest.raises(ModelError) as caught:
        import_model(*network, **options)
    assert not network[2].exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_valid_network_is_imported(network):
    assert import_model(*network).path.is_file()


BAD_CONFIGS = {
    "layer kind": ("[convolutional]", "[crnn]", r"line 6: \[crnn\].*not supported.*convolutional"),
    "activation": ("=linear", "=hardtan", r"line 9: .*activation 'hardtan' is not supported.*mish"),
    "option": ("size=1", "size=1\ndilation=2", r"line 9: .*dilation=2 is not supported"),
    "unknown option": ("size=1", "sise=1", r"line 8: .*option 'sise' is not supported"),
    "dynamic weights": ("size=1", "size=1\nbinary=1", r"line 9: .*binary=1 is not supported"),
    "text for a number": ("size=1", "size=one", r"line 8: .*size: expected whole num.*got 'one'"),
    "two numbers for one": ("size=1", "size=1,2", r"line 8: .*size: expected one value.*2 values"),
    "zero filters": ("=18", "=0", r"line 7: .*filters: expected at least 1, but got '0'"),
    "uneven stride": ("size=1", "stride=1\nstride_x=2", r"line 9: .*stride_x=2 is not supported"),
    "no width": ("width=32", "", r"line 1: \[net\] width: expected one value, but got none"),
    "grey": ("channels=3", "channels=1", r"line 4: \[net\] channels=1 is not supported"),
    "no net": ("[net]", "[nett]", r"expected a Darknet cfg that begins with \[net\].*\[nett\]"),
    "no head": ("[yolo]", "[maxpool]", r"line 12: \[maxpool\] option 'mask' is not supported"),
    "no layer": (GOOD[GOOD.index("[conv") :], "", r"at least one \[yolo\] layer"),
    "stray text": ("[yolo]", "[yolo]\nhello", r"line 12: expected \[layer\] or option=value"),
    "text before": ("[net]", "width=3\n[net]", r"line 1: expected \[layer\]"),
    "empty": (GOOD, "", r"expected a Darknet cfg that begins with \[net\].*no section"),
    "mask": ("mask=0,1,2", "mask=0,1,3", r"line 12: .*mask: expected indices below num=3.*got 3"),
    "anchors": ("16,16", "16", r"line 13: .*anchors: expected 3 pairs.*got 5 numbers"),
    "negative anchor": ("16,16", "16,-1", r"line 13: .*anchors: expected 3 pairs of positive"),
    "new_coords": ("num=3", "num=3\nnew_coords=1", r"line 16: .*new_coords=1 is not supported"),
    "classes": ("classes=1", "classes=2", r"line 11: \[yolo\] expected 21 channels.*has 18"),
    "route ahead": ("[yolo]", "[route]\nlayers=3\n[yolo]", r"line 12: .*layers: .*number 1.*'3'"),
    "first layer": ("[conv", "[maxpool]\n[conv", r"line 6: \[maxpool\] expected a convolution"),
    "yolo of no convolution": (
        *("[yolo]", "[maxpool]\n[yolo]"), r"line 12: \[yolo\] expected a convolution",
    ),
    "too small": ("size=1", "size=33", r"line 6: \[convolution\] its input.*too small"),
    "groups": (
        "[yolo]",
        "[convolutional]\nfilters=18\ngroups=4\nactivation=linear\n[yolo]",
        r"line 11: .*groups=4 does not divide its 18 channels",
    ),
    "sizes": (
        "[yolo]",
        "[convolutional]\nfilters=18\nstride=2\nactivation=linear\n[route]\nlayers=-1,-2\n" + LAST,
        r"line 15: \[route\] expected inputs of one size.*16x16x18 and 32x32x18",
    ),
    "shortcut": (
        "[yolo]",
        "[convolutional]\nfilters=9\nactivation=linear\n[shortcut]\nfrom=-2\n" + LAST,
        r"line 14: \[shortcut\] expected two equal shapes.*32x32x9 and 32x32x18",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CONFIGS, ids=str)
def test_error_in_the_cfg_names_its_line(network, name):
    old, new, pattern = BAD_CONFIGS[name]
    assert old in GOOD
    network[0].write_text(GOOD.replace(old, new, 1))
    message = message_of(network)
    assert message.startswith(str(network[0]))
    assert re.search(pattern, message), message


@pytest.mark.parametrize(("size", "kind"), [(-4, "short"), (4, "long"), (-1, "short")], ids=str)
def test_weights_of_wrong_length_are_refused_with_both_sizes(network, size, kind):
    data = network[1].read_bytes()
    network[1].write_bytes(data[:size] if size < 0 else data + bytes(size))
    message = message_of(network)
    assert f"too {kind}" in message
    assert f"expected {WEIGHTS_BYTES} bytes, but got {WEIGHTS_BYTES + size}" in message


def test_weights_shorter_than_their_header(network):
    network[1].write_bytes(b"\0\0")
    assert "expected at least 12 bytes, but got 2" in message_of(network)


def test_file_that_is_not_a_weights_file(network):
    network[1].write_bytes(b"this is some text, not a network")
    assert "not Darknet weights" in message_of(network)


def test_weights_in_place_of_the_cfg(network):
    config, weights, output = network
    message = message_of((weights, config, output))
    assert message.isprintable()
    assert "net.weights: expected a Darknet cfg file" in message
    assert "is it the weights file?" in message


def test_weights_that_are_not_finite(network):
    data = network[1].read_bytes()
    network[1].write_bytes(data[:-4] + b"\0\0\xc0\x7f")
    assert "expected finite numbers" in message_of(network)


@pytest.mark.parametrize("missing", [0, 1], ids=["cfg", "weights"])
def test_missing_file(network, missing):
    network[missing].unlink()
    assert "does not exist" in message_of(network)


def test_folder_instead_of_a_file(network):
    network[0].unlink()
    network[0].mkdir()
    assert "cannot be read" in message_of(network)


def test_wrong_number_of_labels(network):
    message = message_of(network, labels=("cat", "dog"))
    assert "expected 1 labels (classes=1), but got 2" in message


def test_heads_of_different_classes(network):
    extra = GOOD[GOOD.index("[conv") :].replace("classes=1", "classes=2")
    network[0].write_text(GOOD + extra)
    assert re.search(r"line 21: .*expected 1 as in line 11, but got 2", message_of(network))


def test_labels_with_a_gap(tmp_path):
    path = tmp_path / "x.names"
    path.write_text("cat\n\ndog\n")
    with pytest.raises(ModelError, match="line 2: expected a label, but the line is empty"):
        read_labels(path)


def test_output_that_cannot_be_written_leaves_nothing_behind(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        import_model(network[0], network[1], tmp_path / "file" / "net.onnx")
    target = tmp_path / "taken"
    (target / "net.onnx").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        import_model(network[0], network[1], target / "net.onnx")
    assert [path.name for path in target.iterdir()] == ["net.onnx"]


def test_training_options_and_comments_are_ignored(network):
    plain = read_config(network[0]).layers
    text = GOOD.replace("size=1", " size = 1 # one\nstopbackward=1\n;note")
    text = text.replace("height=32", "height=32\nburn_in=1000\npolicy=steps")
    network[0].write_text(text.replace("num=3", "num=3\njitter=.3\nmax_delta=5"))
    changed = read_config(network[0]).layers
    assert [type(layer) for layer in changed] == [type(layer) for layer in plain]
    assert changed[0].filters == 18
    assert changed[1].anchors == plain[1].anchors
