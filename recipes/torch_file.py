"""Reader of PyTorch state dicts, without PyTorch and without running arbitrary pickles.

A PyTorch file describes its tensors with a pickle, which can name any function to call. Only the
names that a state dict needs are supported; any other is an error. The format is the one before
PyTorch 1.6: five pickles, then the raw storages.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.text.files import open_regular

Arrays = dict[str, npt.NDArray[Any]]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_BYTES = 16 * 2**20  # of all pickles
_MOST_OPERATIONS = 200_000
_LONGEST_TEXT = 1000
_MOST_AXES = 16
_OPERATIONS = frozenset(
    (
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE"),
        *(
            "NEWFALSE",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINUNICODE",
            "EMPTY_TUPLE",
            "TUPLE",
        ),
        *("TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM"),
        *("SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    )
)
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


def load_state_dict(path: Path) -> Arrays:
    """Return the tensors of the state dict in `path` by name, as little-endian arrays.

    Raises `ModelError` if the file is missing, is not a PyTorch file of this format, is truncated,
    or holds anything but a flat mapping of names to contiguous tensors.
    """
    try:
        with open_regular(path, ModelError) as file:
            tree, storages = _read(file)
        if not isinstance(tree, Mapping):
            raise ModelError(f"holds a {type(tree).__name__}; expected a mapping of tensors")
        return {str(name): _array(name, value, storages) for name, value in tree.items()}
    except ModelError as error:
        raise ModelError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except (
        OSError, pickle.UnpicklingError, struct.error, EOFError, KeyError, IndexError,
        AttributeError, TypeError, ValueError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        # The exceptions of the pickle reader for damaged bytes are not documented.
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
    if not len(shape) == len(strides) <= _MOST_AXES:
        raise ModelError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _StateDictUnpickler(pickle.Unpickler):
    """Supports the names that a state dict uses, rejects all others, and records storages."""

    _KNOWN = {  # noqa: RUF012  (the base class is untyped here; the mapping is never changed)
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = self._KNOWN.get((module, name))
        if known is None:
            raise ModelError(
                f"its pickle names {module}.{name}; expected only the tensors of a state dict"
            )
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, length = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ModelError(f"refers to a '{kind}' outside its pickle; expected a storage")
        self.storages[str(key)] = storage = _Storage(dtype, str(key), int(length))
        return storage


def _load(unpickler: _StateDictUnpickler, file: BinaryIO) -> Any:
    """Unpickle once the operations are known to take little time and memory."""
    start = file.tell()
    _check_operations(file)
    file.seek(start)
    return unpickler.load()


def _check_operations(file: BinaryIO) -> None:
    """Check the operations of one pickle.

    The objects of a pickle may share parts, so that few bytes describe a number or a tuple that
    takes hours to hash, and a large place in the memo allocates all places before it. A state dict
    needs neither: only texts and names are fetched from the memo. Raises `ModelError`.
    """
    memo: dict[int, bool] = {}
    previous = ""
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name not in _OPERATIONS or count > _MOST_OPERATIONS:
            raise ModelError(
                f"its pickle has the operation {operation.name}; expected a state dict"
            )
        if isinstance(argument, str) and len(argument) > _LONGEST_TEXT:
            raise ModelError(f"its pickle has a text of {len(argument)} letters")
        place = argument if isinstance(argument, int) else 0
        if operation.name in {"BINPUT", "LONG_BINPUT"}:
            if not 0 <= place <= len(memo):
                raise ModelError(f"its pickle is damaged: it uses place {place} of its memo")
            memo[place] = previous in {"BINUNICODE", "GLOBAL"}
        elif operation.name in {"BINGET", "LONG_BINGET"} and not memo.get(place, False):
            raise ModelError(
                "its pickle repeats objects; expected only the tensors of a state dict"
            )
        previous = operation.name


def _read(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """Read the pickles (magic, protocol, system, tree, storage keys), then the storages."""
    head = io.BytesIO(file.read(_MOST_BYTES))  # cannot be asked for more than it has
    magic, protocol, system = (_load(_StateDictUnpickler(head), head) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not system["little_endian"]:
        raise ModelError("expected a little-endian file of torch.save before version 1.6")
    unpickler = _StateDictUnpickler(head)
    tree = _load(unpickler, head)
    storages: dict[str, bytes] = {}
    keys = _load(_StateDictUnpickler(head), head)
    file.seek(head.tell())
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.length:
            raise ModelError(f"storage {key} has {count} numbers; expected {storage.length}")
        size = storage.length * storage.dtype.itemsize
        if not 0 <= size <= os.fstat(file.fileno()).st_size:
            raise ModelError(f"storage {key} has {count} numbers, more than the file")
        storages[key] = file.read(size)
    return tree, storages


def _array(name: object, value: object, storages: Mapping[str, bytes]) -> npt.NDArray[Any]:
    """Return a copy of the numbers of one tensor."""
    if not isinstance(value, _Tensor):
        raise ModelError(f"entry '{name}' is a {type(value).__name__}; expected a tensor")
    size = prod(value.shape)
    if value.strides != tuple(prod(value.shape[axis + 1 :]) for axis in range(len(value.shape))):
        raise ModelError(f"entry '{name}' is not contiguous")
    flat: npt.NDArray[Any] = np.frombuffer(storages[value.storage.key], value.storage.dtype)
    if value.offset < 0 or value.offset + size > len(flat):
        raise ModelError(f"entry '{name}' ends after number {len(flat)} of its storage")
    return np.array(flat[value.offset : value.offset + size].reshape(value.shape))
