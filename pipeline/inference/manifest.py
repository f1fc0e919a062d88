"""Manifests: what a model file made by others expects, as a TOML text that people write.

    task = "detect"                      # or "classify"
    labels = "names.txt"                 # one a line, beside the manifest; or a list of names
    anchors = [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]

    [input]                              # what is left out is as our own tools make it
    width = 416
    height = 416
    layout = "NCHW"
    dtype = "float32"
    color = "RGB"
    scale = 0.00392156862745098          # (pixel * scale - mean) / std

    [[heads]]
    output = "head13"
    mask = [3, 4, 5]                     # which of the anchors; or `anchors` of its own
    scale_x_y = 1.05

A classifier has `logits = "NAME"` instead of anchors and heads. An input and an output that is the
graph's only one need no name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.inference.spec import ModelSpec
from pipeline.inference.toml_file import converted, read_toml


def read_manifest(path: str | Path) -> ModelSpec:
    """The spec that a manifest describes, called as the file is unless it has a `name`.

    Raises `ModelError` where the file or its labels cannot be read, a key is not known or a value
    is not what it should be.
    """
    path = Path(path).expanduser()
    return manifest_spec(read_toml(path), path.stem, path.parent, str(path))


def manifest_for(task: str, path: str | Path | None) -> str | Path | None:
    """The manifest at `path` where it describes a model for `task`, else None."""
    return path if path is not None and read_manifest(path).task == task else None


def manifest_spec(data: dict[str, Any], name: str, folder: Path, subject: str) -> ModelSpec:
    """The spec out of a manifest's tables; a file of labels is looked for in `folder`.

    Raises `ModelError` that begins with `subject`.
    """
    data = {"name": name, **data}
    if data.get("task") == "classify":
        data.setdefault("logits", "")
    if isinstance(data.get("labels"), str):
        data["labels"] = _read_labels(folder / data["labels"], subject)
    anchors = data.pop("anchors", None)
    heads = data.get("heads", [])
    if isinstance(heads, list):
        if anchors is not None and not any(isinstance(h, dict) and "mask" in h for h in heads):
            raise ModelError(f"{subject}: anchors are for heads with a mask, but none has one")
        data["heads"] = [_with_anchors(head, anchors, subject) for head in heads]
    if isinstance(entry := data.get("input"), dict):
        data["input"] = {"name": "", **entry}
    return converted(data, ModelSpec, subject)


def _with_anchors(head: Any, anchors: Any, subject: str) -> Any:
    """A head whose mask has become the anchors that it picks."""
    if not isinstance(head, dict) or "mask" not in head:
        return head
    head = {"output": "", **head}
    mask = head.pop("mask")
    try:
        if "anchors" in head or min(mask) < 0:
            raise IndexError
        head["anchors"] = [anchors[index] for index in mask]
    except (TypeError, IndexError, KeyError, ValueError) as error:
        known = len(anchors) if isinstance(anchors, list) else "no"
        raise ModelError(
            f"{subject}: expected a mask that picks some of {known} anchors, but got {mask}"
        ) from error
    return head


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
