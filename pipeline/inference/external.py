"""Reads ONNX files within a limit, and refuses those whose weights lie outside their own folder.

An ONNX file may keep a tensor's values in another file, and ONNX Runtime opens whatever it names:
a model from elsewhere could make it read any file of the machine, or a pipe that never ends. The
format is parsed here because the package `onnx` is not needed to run a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.text.files import open_regular, read_bytes

MODEL_LIMIT = 2**30
"""Bytes of a model file, and of all files with its weights, at most."""

_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}

# Field numbers of onnx.proto3. Graphs contain graphs (the branches of If and Loop), and attributes
# contain tensors: the fields of a message that lead to tensors, and the messages in them.
_TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
_EXTERNAL_DATA = 13
_MARK = b"location"


def read_model(path: Path) -> bytes:
    """The contents of a model file whose weights may be read too.

    Raises `ModelError` unless the files of the model are regular, lie in one folder and have at
    most `MODEL_LIMIT` bytes.
    """
    data = read_bytes(path, MODEL_LIMIT, ModelError)
    total = len(data) + sum(_file_sizes(path, data))
    if total > MODEL_LIMIT:
        raise ModelError(
            f"{path}: expected a model of at most {MODEL_LIMIT / 2**20:.0f} MiB, "
            f"but with its weights it has {total / 2**20:.0f} MiB"
        )
    return data


def stored_bytes(path: Path) -> int:
    """The bytes of a model file and of the files in its folder that hold its weights.

    Raises `ModelError` as `read_model` does.
    """
    data = read_model(path)
    return len(data) + sum(_file_sizes(path, data))


def _file_sizes(path: Path, data: bytes) -> list[int]:
    """The sizes of the files in the model's folder that hold its weights."""
    if _MARK not in data:
        return []
    try:
        names = set(_locations(memoryview(data), "model"))
        return [_size_of_weights(path, name) for name in sorted(names)]
    except (IndexError, ValueError, RecursionError) as error:
        # Refuse what this parser cannot follow, because ONNX Runtime might.
        raise ModelError(f"{path}: not a usable ONNX model: the file is damaged") from error


def _size_of_weights(path: Path, name: str) -> int:
    folder = Path(os.path.realpath(path.parent))
    target = Path(os.path.realpath(folder / name))
    if folder not in target.parents:
        raise ModelError(
            f"{path}: its weights lie in {name}, outside of its own folder; "
            f"expected all files of a model in one folder"
        )
    with open_regular(target, ModelError, f"{path}: its weights in {name}") as file:
        return os.fstat(file.fileno()).st_size


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    """The file names in a message of that kind and in the messages inside it."""
    for number, value in _fields(message):
        if kind == "tensor" and number == _EXTERNAL_DATA:
            entry = {key: bytes(text) for key, text in _fields(value)}
            if entry.get(1) == _MARK:
                yield entry.get(2, b"").decode("utf-8", "surrogateescape")
        elif inner := _TENSORS.get(kind, {}).get(number):
            yield from _locations(value, inner)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and contents of the length-delimited fields; others are skipped."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag >= 2**32:
            raise ValueError("not a protobuf message")
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise IndexError("truncated")
            yield tag >> 3, message[position : position + length]
            position += length
        elif kind == 0:
            _, position = _varint(message, position)
        elif kind in _FIXED_SIZES:
            position += _FIXED_SIZES[kind]
        else:
            raise ValueError("not a protobuf message")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("not a protobuf message")
