"""Matching of class names of a data set with the labels of a model."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Sequence

from pipeline.errors import InputError

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
            unknown[0],
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
