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

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pipeline.errors import ModelError
from pipeline.text.files import LIST_LIMIT, read_text
from pipeline.text.formats import parse_toml

if TYPE_CHECKING:
    from pipeline.inference.spec import ModelSpec

T = TypeVar("T")


def read_manifest(path: str | Path) -> ModelSpec:
    """The spec that a manifest describes, called as the file is unless it has a `name`.

    Raises `ModelError` if the file or its labels cannot be read, a key is unknown or a value is
    out of its range.
    """
    path = Path(os.path.expanduser(path))
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
        path = folder / data["labels"]
        data["labels"] = read_labels(path, f"{subject}: labels {path}")
    data = upgrade(data, subject)
    if isinstance(entry := data.get("input"), dict):
        data["input"] = {"name": "", **entry}
    return converted(data, ModelSpec, subject)


def read_labels(path: Path, subject: str = "") -> list[str]:
    """One label per line, in the order of the classes; empty lines at the end are ignored.

    Raises `ModelError` if the file cannot be read or has an empty line between labels.
    """
    lines = read_text(path, LIST_LIMIT, ModelError, subject).rstrip().splitlines()
    labels = [line.strip() for line in lines]
    if not all(labels):
        number = labels.index("") + 1
        raise ModelError(f"{path}: line {number}: expected a label, but the line is empty")
    return labels


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ModelError` if it cannot be read or is no TOML."""
    return parse_toml(read_text(path, kind=ModelError), str(path), ModelError)


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
