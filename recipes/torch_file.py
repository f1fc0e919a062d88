"""Reader of PyTorch state dicts, without PyTorch and without running arbitrary pickles.

A PyTorch file describes its tensors with a pickle, which can name any function to call. Only the
names that a state dict needs are supported; any other is an error. Both file formats are read: the
zip archive (PyTorch 1.6 and later) and the older sequence of pickles and raw storages.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

Arrays = dict[str, npt.NDArray[Any]]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def load_state_dict(path: str | Path) -> Arrays:
    """Return the tensors of the state dict in `path` by name, as C-ordered little-endian arrays.

    Raises `ModelError` if the file is missing, is not a PyTorch file, is truncated, or holds
    anything but a flat mapping of names to dense tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: expected a PyTorch state dict, but it does not exist")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                tree, storages = _read_zip(archive)
        else:
            with path.open("rb") as file:
                tree, storages = _read_legacy(file)
        if not isinstance(tree, Mapping):
            raise ModelError(
                f"holds a {type(tree).__name__}; expected a mapping of names to tensors"
            )
        return {_name(name): _array(name, value, storages) for name, value in tree.items()}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, KeyError, IndexError,
        AttributeError, TypeError, ValueError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        # The exceptions of the pickle and zip readers for damaged bytes are not documented.
        raise ModelError(f"{path}: not a readable PyTorch state dict ({error})") from error


@dataclass(frozen=True)
class _Storage:
    """A block of numbers in the file, known before its bytes are read."""

    dtype: np.dtype[Any]
    key: str
    length: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


class _StateDictUnpickler(pickle.Unpickler):
    """Supports the names that a state dict uses, and rejects all others."""

    _KNOWN = {  # noqa: RUF012  (the base class is untyped here; the mapping is never changed)
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = self._KNOWN.get((module, name))
        if known is None:
            raise ModelError(
                f"its pickle names {module}.{name}; expected only the tensors of a state dict. "
                f"Save it with torch.save(model.state_dict(), ...)"
            )
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, length = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ModelError(
                f"refers to a '{kind}' outside its pickle; expected a tensor's storage"
            )
        if len(pid) > 5 and pid[5] is not None:
            raise ModelError(f"storage {key} is a view of another; expected whole storages")
        return _Storage(dtype, str(key), int(length))


def _read_zip(archive: zipfile.ZipFile) -> tuple[Any, dict[str, bytes]]:
    pickles = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise ModelError(f"a zip archive with {len(pickles)} files data.pkl; expected exactly one")
    root = pickles[0][: -len("data.pkl")]
    byte_order = f"{root}byteorder"
    if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
        raise ModelError("stored in big-endian byte order; expected little-endian")
    tree = _StateDictUnpickler(io.BytesIO(archive.read(pickles[0]))).load()
    data = f"{root}data/"
    return tree, {
        name[len(data) :]: archive.read(name)
        for name in archive.namelist()
        if name.startswith(data)
    }


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """Read five pickles (magic, protocol, system, tree, storage keys), then the storages' bytes."""
    magic, protocol, system = (_StateDictUnpickler(file).load() for _ in range(3))
    if magic != _LEGACY_MAGIC:
        raise ModelError("does not begin like a PyTorch file; expected a file of torch.save")
    if protocol != _LEGACY_PROTOCOL:
        raise ModelError(f"PyTorch file protocol {protocol}; expected {_LEGACY_PROTOCOL}")
    if not system["little_endian"]:
        raise ModelError("stored in big-endian byte order; expected little-endian")
    unpickler = _RecordingUnpickler(file)
    tree = unpickler.load()
    keys = _StateDictUnpickler(file).load()
    storages: dict[str, bytes] = {}
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.length:
            raise ModelError(f"storage {key} has {count} numbers; expected {storage.length}")
        storages[key] = file.read(storage.length * storage.dtype.itemsize)
    return tree, storages


class _RecordingUnpickler(_StateDictUnpickler):
    """Records the storages by key: the older format has their types nowhere else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        storage = super().persistent_load(pid)
        self.storages[storage.key] = storage
        return storage


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ModelError(f"has an entry named {name!r}; expected text")
    return name


def _array(name: str, value: object, storages: Mapping[str, bytes]) -> npt.NDArray[Any]:
    """Return a copy of the numbers of one tensor."""
    if not isinstance(value, _Tensor):
        raise ModelError(f"entry '{name}' is a {type(value).__name__}; expected a tensor")
    storage = value.storage
    data = storages.get(storage.key, b"")
    expected = storage.length * storage.dtype.itemsize
    if len(data) != expected:
        raise ModelError(
            f"entry '{name}' needs {expected} bytes, but the file holds {len(data)}; "
            f"it may be truncated"
        )
    last = value.offset + sum(
        (size - 1) * stride for size, stride in zip(value.shape, value.strides, strict=True)
    )
    if 0 in value.shape:
        return np.empty(value.shape, storage.dtype)
    if value.offset < 0 or min(value.strides, default=0) < 0 or last >= storage.length:
        raise ModelError(
            f"entry '{name}' reaches number {last} of a storage of {storage.length} numbers"
        )
    flat = np.frombuffer(data, storage.dtype)
    step = storage.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        flat[value.offset :], value.shape, [stride * step for stride in value.strides]
    )
    return np.array(view)
