"""Reader of images with true classes, and the matching of class names with a model's labels.

The images are in one folder per class, or listed in a text file with one image per line, followed
by its class after a comma, a tab or the last space. Paths are relative to the text file or to a
given folder.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.text.files import read_text
from pipeline.zoo.datasets.image_folders import class_folders

logger = logging.getLogger(__name__)

BACKGROUND = "background"

_LONGEST = 60  # characters of a name in a message
# Pascal VOC, Darknet and COCO use different names for these classes.
_SAME = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}


def match_names(names: Sequence[str], labels: Sequence[str], subject: str) -> list[int]:
    """Return the class id of each name: by the name, by a number, or all of them by their order.

    A label may be a list of synonyms, separated by commas. Case, spaces, underscores and hyphens
    are ignored. The order is used if there are as many names as labels (without a first label
    `background`), some names are unknown, and the known ones are in their places.

    Raises `InputError` that begins with `subject` and lists the unknown names.
    """
    known = _synonyms(labels)
    found = [known.get(plain_name(name)) for name in names]
    unknown = [name for name, class_id in zip(names, found, strict=True) if class_id is None]
    if not unknown:
        return [class_id for class_id in found if class_id is not None]
    if all(re.fullmatch(r"\d{1,9}", name) for name in names):
        return [_number(name, labels, subject) for name in names]
    first = 1 if labels and plain_name(labels[0]) == BACKGROUND else 0
    is_in_order = all(known in (None, place) for place, known in enumerate(found, start=first))
    if len(names) == len(labels) - first and is_in_order:
        logger.warning(
            "%s: its class names are not the model's (%s, ...); classes are matched by their order",
            subject,
            unknown[0][:_LONGEST],
        )
        return list(range(first, len(labels)))
    near = difflib.get_close_matches(unknown[0].lower(), [label.lower() for label in labels], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in unknown[:5]]
    raise InputError(
        f"{subject}: {len(unknown)} of its {len(names)} classes are not among the model's "
        f"{len(labels)} labels: {', '.join(shown)}{', ...' if len(unknown) > 5 else ''}{hint}"
    )


def match_used_names(
    names: Sequence[str], used: Collection[str], labels: Sequence[str], subject: str
) -> dict[str, int]:
    """Return the class id of each name; names that no box uses may be unknown to the model.

    Some tools list a class that stands for the whole data set, or all possible classes.
    """
    try:
        return dict(zip(names, match_names(names, labels, subject), strict=True))
    except InputError:
        some = [name for name in names if name in used]
        if not 0 < len(some) < len(names):
            raise
        return dict(zip(some, match_names(some, labels, subject), strict=True))


def _number(name: str, labels: Sequence[str], subject: str) -> int:
    if int(name) >= len(labels):
        raise InputError(
            f"{subject}: expected classes 0 to {len(labels) - 1}, as the model has {len(labels)} "
            f"labels, but got {name}"
        )
    return int(name)


def _synonyms(labels: Sequence[str]) -> dict[str, int]:
    """Return every plain name of every class; whole labels take precedence over synonyms."""
    known: dict[str, int] = {}
    for class_id, label in enumerate(labels):
        known.setdefault(plain_name(label), class_id)
    for class_id, label in enumerate(labels):
        for name in label.split(","):
            known.setdefault(plain_name(name), class_id)
    return known


def plain_name(name: str) -> str:
    """Return a name without case, spaces, underscores and hyphens, and with one known synonym."""
    plain = re.sub(r"[\s_-]+", "", name.casefold())
    return _SAME.get(plain, plain)


FORMS = "a folder with one sub-folder of images per class, or a text file of images and classes"

_LARGEST_LIST = 64 * 2**20


def read_classes(
    data: str | Path, labels: Sequence[str], images: str | Path | None = None
) -> dict[Path, int]:
    """Return the images of `data` and the class id of each.

    `images` is the folder of the images if they are not beside the text file.

    Raises `InputError` if `data` has neither format or has a class that the model does not know,
    and if `images` is not a folder or `data` itself holds the images.
    """
    data = Path(data)
    is_folder = os.path.isdir(data)
    if images is not None and (is_folder or not os.path.isdir(images)):
        found = f"the images are in {data}" if is_folder else "there is no such folder"
        raise InputError(
            f"{images}: expected the folder of the images that a text file lists, but {found}"
        )
    if is_folder:
        by_name = class_folders(data)
        named = {path: name for name, paths in by_name.items() for path in paths}
    elif os.path.isfile(data) and data.suffix != ".json":
        named = _read_list(data, Path(images or data.parent))
    else:
        found = "it is neither" if os.path.exists(data) else "it does not exist"
        raise InputError(f"{data}: expected {FORMS}, but {found}")
    names = sorted(set(named.values()))
    classes = dict(zip(names, match_names(names, labels, str(data)), strict=True))
    return {path: classes[name] for path, name in named.items()}


def _read_list(data: Path, folder: Path) -> dict[Path, str]:
    """Read the images in `folder` and the class names of a text file."""
    lines = read_text(data, _LARGEST_LIST).splitlines()
    found: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in _split(line)]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"{data}: line {number}: expected an image and its class, but got '{line[:80]}'"
            )
        path, name = folder / parts[0], parts[1]
        if found.setdefault(path, name) != name:
            raise InputError(
                f"{data}: line {number}: {parts[0]} is '{name[:80]}', but was "
                f"'{found[path][:80]}' before"
            )
    if not found:
        raise InputError(f"{data}: expected lines of an image and its class, but it has none")
    return found


def _split(line: str) -> list[str]:
    for separator in (",", "\t"):
        if separator in line:
            return line.split(separator, 1)
    return re.split(r"\s+(?=\S+$)", line.strip())
