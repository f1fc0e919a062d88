from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
import zipfile
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
    """Writes what torch.save writes, with stand-ins for the classes that its pickles name."""

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

    def pickled(self, tree: object, *, legacy: bool) -> bytes:
        buffer = io.BytesIO()
        tail = (None,) if legacy else ()
        keys = {id(storage): str(index) for index, storage in enumerate(self.storages)}

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Storage):
                    return None
                return ("storage", item.kind, keys[id(item)], "cpu", item.array.size, *tail)

        Pickler(buffer, protocol=2).dump(tree)
        return buffer.getvalue()

    def legacy(self, tree: object) -> bytes:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, 1001, system))
        keys = pickle.dumps([str(index) for index in range(len(self.storages))], 2)
        data = b"".join(
            struct.pack("<q", item.array.size) + item.array.tobytes() for item in self.storages
        )
        return head + self.pickled(tree, legacy=True) + keys + data

    def zipped(self, tree: object) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("weights/data.pkl", self.pickled(tree, legacy=False))
            archive.writestr("weights/byteorder", "little")
            for index, storage in enumerate(self.storages):
                archive.writestr(f"weights/data/{index}", storage.array.tobytes())
        return buffer.getvalue()


@pytest.fixture
def writer(monkeypatch) -> Writer:
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_arguments):
        raise AssertionError("a stand-in is never called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    kinds = {}
    for name in ("FloatStorage", "LongStorage", "HalfStorage", "BoolStorage"):
        kinds[name] = type(name, (), {"__module__": "torch"})
        setattr(torch, name, kinds[name])
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return Writer(_rebuild_tensor_v2, kinds)


@pytest.fixture(params=["legacy", "zipped"])
def form(request) -> str:
    return request.param


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    return path


def test_every_tensor_comes_back_with_its_name_shape_and_type(writer, form, tmp_path):
    arrays = {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "steps": np.array(7, np.int64),
        "half": np.array([1.5, -2.0], np.float16),
        "mask": np.array([True, False]),
        "nothing": np.empty((0, 3), np.float32),
    }
    kinds = ("FloatStorage", "LongStorage", "HalfStorage", "BoolStorage", "FloatStorage")
    tree = OrderedDict(
        (name, writer.tensor(array, kind))
        for (name, array), kind in zip(arrays.items(), kinds, strict=True)
    )
    found = load_state_dict(save(tmp_path, getattr(writer, form)(tree)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_transposed_and_shifted_views_of_one_storage_are_read(writer, form, tmp_path):
    numbers = np.arange(20, dtype=np.float32)
    storage = Storage(writer.kinds["FloatStorage"], numbers)
    writer.storages.append(storage)
    tree = {
        "transposed": writer.view(storage, (4, 3), (1, 4), 2),
        "row": writer.view(storage, (5,), (1,), 15),
    }
    found = load_state_dict(save(tmp_path, getattr(writer, form)(tree)))
    np.testing.assert_array_equal(found["transposed"], numbers[2:14].reshape(3, 4).T)
    np.testing.assert_array_equal(found["row"], numbers[15:])


def test_view_beyond_its_storage_is_an_error(writer, form, tmp_path):
    tree = {"w": writer.tensor(np.zeros((2, 2), np.float32), offset=1)}
    with pytest.raises(ModelError, match="'w' reaches number 4 of a storage of 4"):
        load_state_dict(save(tmp_path, getattr(writer, form)(tree)))


@pytest.mark.parametrize("strides", [(-1,), (2**40,)], ids=["negative", "huge"])
def test_strides_that_leave_the_storage_are_an_error(writer, form, strides, tmp_path):
    tree = {"w": writer.tensor(np.zeros(4, np.float32), strides=list(strides))}
    with pytest.raises(ModelError, match="'w' reaches"):
        load_state_dict(save(tmp_path, getattr(writer, form)(tree)))


class Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_names_a_function_is_refused_and_not_run(writer, form, tmp_path):
    made = tmp_path / "made-by-the-pickle"
    with pytest.raises(ModelError, match=r"names posix\.mkdir|names nt\.mkdir|names os\.mkdir"):
        load_state_dict(save(tmp_path, getattr(writer, form)({"w": Command(made)})))
    assert not made.exists()


def test_file_cut_short_anywhere_is_an_error(writer, form, tmp_path):
    data = getattr(writer, form)({"w": writer.tensor(np.arange(64, dtype=np.float32))})
    for length in (0, 1, 10, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1):
        with pytest.raises(ModelError, match=r"weights\.pt: "):
            load_state_dict(save(tmp_path, data[:length]))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        pytest.param([1, 2], "holds a list", id="no mapping"),
        pytest.param({"w": 3}, "entry 'w' is a int", id="no tensor"),
        pytest.param({5: 3}, "entry named 5", id="no name"),
    ],
)
def test_anything_but_a_state_dict_is_an_error(writer, form, tree, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load_state_dict(save(tmp_path, getattr(writer, form)(tree)))


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_state_dict(tmp_path / "none.pt")


def test_files_of_real_torch_are_read(form, tmp_path):
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "weights.pt"
    torch.save(layers.state_dict(), path, _use_new_zipfile_serialization=form == "zipped")
    found = load_state_dict(path)
    assert list(found) == list(layers.state_dict())
    for name, tensor in layers.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
