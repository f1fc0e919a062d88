"""Reading a TOML file that people write, into validated structures."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pipeline.errors import ModelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

_LARGEST = 4 * 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ModelError` where it cannot be read or is no TOML."""
    try:
        data = path.read_bytes()[: _LARGEST + 1]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise ModelError(f"{path}: expected a TOML file of at most 4 MB, but it is larger")
    try:
        tables: dict[str, Any] = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not valid TOML: {error}") from error
    return tables


def converted(data: object, kind: type[T], subject: str) -> T:
    """`data` as `kind`. Raises `ModelError` that begins with `subject` and names the key."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ModelError(f"{subject}: {error}{_known(str(error), kind)}") from error


def _known(message: str, kind: type) -> str:
    """The keys or values that there are, where one that there is not was given."""
    place = re.search(r"`\$(.*)`$", message)
    known = _type_at(msgspec.inspect.type_info(kind), place[1] if place else "")
    if "unknown field" in message and isinstance(known, msgspec.inspect.StructType):
        return f"; known are: {', '.join(field.encode_name for field in known.fields)}"
    if "enum value" in message and isinstance(known, msgspec.inspect.LiteralType):
        return f"; expected one of: {', '.join(map(str, known.values))}"
    return ""


def _type_at(kind: Any, place: str) -> Any:
    """The type of what lies at a place such as `.heads[0].output`; None where it is not known."""
    for key in re.findall(r"\.(\w+)|\[", place):
        if isinstance(kind, msgspec.inspect.StructType):
            kind = next((field.type for field in kind.fields if field.encode_name == key), None)
        else:
            kind = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    return kind
