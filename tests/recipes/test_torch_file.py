"""Weights from files of PyTorch, read without PyTorch and without running their code."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ModelError
from recipes.torch_file import load_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
    def __init__(self, kind: type, array: np.ndarray) -> None:
        self.kind, self.array = kind, array


@dataclass
class Writer:
    """Writes files like torch.save, with stand-ins for the classes that its pickles name."""

    rebuild: object
    kinds: dict[str, type]
    storages: list[Storage] = field(default_factory=list)

    def tensor(self, array: np.ndarray, kind: str = "FloatStorage", strides=None, offset=0):
        storage = Storage(self.kinds[kind], np.ascontiguousarray(array).ravel())
        self.storages.append(storage)
        strides = strides or [step // array.itemsize for step in array.strides]
        return self.view(storage, array.shape, strides, offset)

    def view(self, storage: Storage, shape, strides, offset):
        rebuild = self.rebuild
        arguments = (storage, offset, tuple(shape), tuple(strides), False, OrderedDict())

        class Tensor:
            def __reduce__(self):
                return rebuild, arguments

        return Tensor()

    def pickled(self, tree: object) -> bytes:
        buffer = io.BytesIO()
        keys = {id(storage): str(index) for index, storage in enumerate(self.storages)}

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Storage):
                    return None
                return ("storage", item.kind, keys[id(item)], "cpu", item.array.size, None)

        Pickler(buffer, protocol=2).dump(tree)
        return buffer.getvalue()

    def file(self, tree: object) -> bytes:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, 1001, system))
        keys = pickle.dumps([str(index) for index in range(len(self.storages))], 2)
        data = b"".join(
            struct.pack("<q", item.array.size) + item.array.tobytes() for item in self.storages
        )
        return head + self.pickled(tree) + keys + data


@pytest.fixture
def writer(monkeypatch) -> Writer:
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_arguments):
        raise AssertionError("a stand-in is never called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    kinds = {}
    for name in ("FloatStorage", "LongStorage", "HalfStorage"):
        kinds[name] = type(name, (), {"__module__": "torch"})
        setattr(torch, name, kinds[name])
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return Writer(_rebuild_tensor_v2, kinds)


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    return path


def test_tensors_keep_their_name_shape_and_type(writer, tmp_path):
    arrays = {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "steps": np.array(7, np.int64),
        "half": np.array([1.5, -2.0], np.float16),
    }
    kinds = ("FloatStorage", "LongStorage", "HalfStorage")
    tree = OrderedDict(
        (name, writer.tensor(array, kind))
        for (name, array), kind in zip(arrays.items(), kinds, strict=True)
    )
    found = load_state_dict(save(tmp_path, writer.file(tree)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_tensors_that_share_a_storage_are_read(writer, tmp_path):
    numbers = np.arange(20, dtype=np.float32)
    storage = Storage(writer.kinds["FloatStorage"], numbers)
    writer.storages.append(storage)
    tree = {
        "table": writer.view(storage, (4, 3), (3, 1), 2),
        "row": writer.view(storage, (5,), (1,), 15),
    }
    found = load_state_dict(save(tmp_path, writer.file(tree)))
    np.testing.assert_array_equal(found["table"], numbers[2:14].reshape(4, 3))
    np.testing.assert_array_equal(found["row"], numbers[15:])


def test_tensor_beyond_its_storage_is_an_error(writer, tmp_path):
    tree = {"w": writer.tensor(np.zeros((2, 2), np.float32), offset=1)}
    with pytest.raises(ModelError, match="'w' ends after number 4 of its storage"):
        load_state_dict(save(tmp_path, writer.file(tree)))


@pytest.mark.parametrize("strides", [(-1,), (2**40,)], ids=["negative", "huge"])
def test_tensor_with_other_strides_is_an_error(writer, strides, tmp_path):
    tree = {"w": writer.tensor(np.zeros(4, np.float32), strides=list(strides))}
    with pytest.raises(ModelError, match="'w' is not contiguous"):
        load_state_dict(save(tmp_path, writer.file(tree)))


class Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_names_a_function_is_refused_and_not_run(writer, tmp_path):
    made = tmp_path / "made-by-the-pickle"
    with pytest.raises(ModelError, match=r"names posix\.mkdir|names nt\.mkdir|names os\.mkdir"):
        load_state_dict(save(tmp_path, writer.file({"w": Command(made)})))
    assert not made.exists()


def test_truncated_file_is_an_error(writer, tmp_path):
    data = writer.file({"w": writer.tensor(np.arange(64, dtype=np.float32))})
    for length in (0, 1, 10, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1):
        with pytest.raises(ModelError, match=r"weights\.pt: "):
            load_state_dict(save(tmp_path, data[:length]))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        pytest.param([1, 2], "holds a list", id="no mapping"),
        pytest.param({"w": 3}, "entry 'w' is a int", id="no tensor"),
    ],
)
def test_anything_but_a_state_dict_is_an_error(writer, tree, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load_state_dict(save(tmp_path, writer.file(tree)))


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        load_state_dict(tmp_path / "none.pt")


@pytest.fixture
def torch():
    return importlib.import_module("torch")


def test_files_of_real_torch_are_read(torch, tmp_path):
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "weights.pt"
    torch.save(layers.state_dict(), path, _use_new_zipfile_serialization=False)
    found = load_state_dict(path)
    assert list(found) == list(layers.state_dict())
    for name, tensor in layers.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
