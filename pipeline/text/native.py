"""The check of a text before a library written in C or C++ gets it."""

from __future__ import annotations

import os

from pipeline.errors import InputError, VisionError
from pipeline.text.display import printable


def utf8(text: str | os.PathLike[str], kind: type[VisionError] = InputError) -> str:
    """The text, for a library written in C or C++.

    OpenCV crashes on surrogates, and a null character ends the text there. Raises an error of this
    `kind` if the text has either.
    """
    text = os.fspath(text)
    if "\0" in text:
        raise kind(f"{printable(text)}: expected a name without null characters")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise kind(f"{printable(text)}: expected a name in UTF-8; use another one") from error
    return text
