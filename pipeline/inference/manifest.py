"""Manifests: TOML files that say what a model made by others takes and gives.

    task = "detect"                      # or "classify"
    labels = "names.txt"                 # one a line, beside the manifest; or a list of names
    anchors = [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]

    [input]                              # the defaults are what our own tools make
    width = 416
    height = 416
    layout = "NCHW"
    dtype = "float32"
    color = "RGB"
    scale = 0.00392156862745098          # (pixel * scale - mean) / std

    [[heads]]
    output = "head13"
    mask = [3, 4, 5]                     # which of the anchors; or its own `anchors`
    scale_x_y = 1.05

Heads with anchors are Darknet's; another family has one table `[head]` with its `family` and what
`pipeline.inference.heads` says of it. A classifier has `logits = "NAME"` instead. An input or an
output that is the graph's only one needs no name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.inference.spec import ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

_LARGEST = 4 * 2**20


def read_manifest(path: str | Path) -> ModelSpec:
    """The spec that a manifest describes, called as the file is unless it has a `name`.

    Raises `ModelError` if the file or its labels cannot be read, a key is unknown or a value is
    out of its range.
    """
    path = Path(path).expanduser()
    return manifest_spec(read_toml(path), path.stem, path.parent, str(path))


def manifest_for(task: str, path: str | Path | None) -> str | Path | None:
    """The manifest at `path` if it describes a model for `task`, else None."""
    return path if path is not None and read_manifest(path).task == task else None


def manifest_spec(data: dict[str, Any], name: str, folder: Path, subject: str) -> ModelSpec:
    """The spec in a manifest's tables; a file of labels is looked for in `folder`.

    Raises `ModelError` that begins with `subject`.
    """
    # Here, because the families of detectors load OpenCV and Numba, and the registry needs neither.
    from pipeline.inference.heads.darknet import upgrade  # noqa: PLC0415
    from pipeline.inference.spec import ModelSpec  # noqa: PLC0415

    data = {"name": name, **data}
    if data.get("task") == "classify":
        data.setdefault("logits", "")
    if isinstance(data.get("labels"), str):
        data["labels"] = _read_labels(folder / data["labels"], subject)
    data = upgrade(data, subject)
    if isinstance(entry := data.get("input"), dict):
        data["input"] = {"name": "", **entry}
    return converted(data, ModelSpec, subject)


def _read_labels(path: Path, subject: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{subject}: labels {path} cannot be read: {error}") from error
    labels = [line.strip() for line in lines]
    if not all(labels):
        number = labels.index("") + 1
        raise ModelError(f"{path}: line {number}: expected a label, but the line is empty")
    return labels


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ModelError` if it cannot be read or is no TOML."""
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
        message = f"{subject}: {error}{_known(str(error), kind)}"
        raise ModelError(message.replace("$.head.outputs[", "$.heads[")) from error


def _known(message: str, kind: type) -> str:
    """The valid keys or values, if the message is about one that is not valid."""
    place = re.search(r"`\$(.*)`$", message)
    known = _type_at(msgspec.inspect.type_info(kind), place[1] if place else "")
    if "unknown field" in message and isinstance(known, msgspec.inspect.StructType):
        return f"; known are: {', '.join(field.encode_name for field in known.fields)}"
    if "enum value" in message and isinstance(known, msgspec.inspect.LiteralType):
        return f"; expected one of: {', '.join(map(str, known.values))}"
    return ""


def _type_at(kind: Any, place: str) -> Any:
    """The type at a place such as `.head.outputs[0].output`; None if it is not known."""
    for key in re.findall(r"\.(\w+)|\[", place):
        if isinstance(kind, msgspec.inspect.StructType):
            kind = next((field.type for field in kind.fields if field.encode_name == key), None)
        else:
            kind = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    return kind
