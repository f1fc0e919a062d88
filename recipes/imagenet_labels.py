"""Short and distinct names of the 1000 ImageNet classes, from a file of synonyms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.errors import InputError
from pipeline.text.files import LIST_LIMIT, read_text

CLASSES = 1000
_BACKGROUND = "background"
# Two classes have the same single name; the file does not distinguish them.
_CLARIFIED = {134: "crane (bird)", 517: "crane (machine)"}


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the first synonym of each line that no other class has.

    The file has one class per line with synonyms separated by commas; a first line `background` is
    ignored. Names that differ only in case count as equal. Raises `InputError` if the file is
    missing or does not contain 1000 different names.
    """
    lines = read_text(
        path, LIST_LIMIT, subject=f"{path}: expected the ImageNet class names"
    ).splitlines()
    rows = [[name.strip() for name in line.split(",")] for line in lines if line.strip()]
    if rows and rows[0] == [_BACKGROUND]:
        del rows[0]
    if len(rows) != CLASSES:
        raise InputError(f"{path}: expected {CLASSES} class names, but it has {len(rows)}")
    used = Counter(row[0].casefold() for row in rows)
    labels = tuple(
        _CLARIFIED.get(index) or next((name for name in row if used[name.casefold()] < 2), row[0])
        for index, row in enumerate(rows)
    )
    repeated = [name for name, times in Counter(map(str.casefold, labels)).items() if times > 1]
    if repeated:
        raise InputError(f"{path}: expected {CLASSES} different names, but '{repeated[0]}' repeats")
    return labels
