"""Which of a model's classes the names of a data set mean."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence

from pipeline.errors import InputError

logger = logging.getLogger(__name__)

_LONGEST = 60  # of a name in a message; what is longer may be anything
BACKGROUND = "background"

# Pascal VOC, Darknet and COCO call the same things by different names.
_SAME = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def match_names(names: Sequence[str], labels: Sequence[str], subject: str) -> list[int]:
    """The class id of each name: by the name, by a number, or all of them by their order.

    A label may list synonyms apart by commas. Case, spaces, underscores and hyphens do not count.
    By order goes where there are as many names as classes (but for a first class `background`),
    not all of them are known, and those that are stand at their place.

    Raises `InputError` that begins with `subject` and names those that are not known.
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
            "%s: its class names are not the model's (%s, ...); they are taken in their order",
            subject,
            unknown[0],
        )
        return list(range(first, len(labels)))
    near = difflib.get_close_matches(unknown[0].lower(), [label.lower() for label in labels], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in unknown[:5]]
    raise InputError(
        f"{subject}: {len(unknown)} of its {len(names)} classes are none of the model's "
        f"{len(labels)} labels: {', '.join(shown)}{', ...' if len(unknown) > 5 else ''}{hint}"
    )


def _number(name: str, labels: Sequence[str], subject: str) -> int:
    if int(name) >= len(labels):
        raise InputError(
            f"{subject}: expected classes 0 to {len(labels) - 1}, as the model has {len(labels)} "
            f"labels, but got {name}"
        )
    return int(name)


def _synonyms(labels: Sequence[str]) -> dict[str, int]:
    """Every plain name of every class; a whole label goes before another one's synonym."""
    known: dict[str, int] = {}
    for class_id, label in enumerate(labels):
        known.setdefault(plain_name(label), class_id)
    for class_id, label in enumerate(labels):
        for name in label.split(","):
            known.setdefault(plain_name(name), class_id)
    return known


def plain_name(name: str) -> str:
    """A name without case, spaces, underscores and hyphens, one of several for one thing."""
    plain = re.sub(r"[\s_-]+", "", name.casefold())
    return _SAME.get(plain, plain)
