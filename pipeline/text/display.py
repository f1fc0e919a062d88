"""Text for a terminal or a log: without control characters, and without passwords."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

# The controls of ASCII and Latin-1, marks that change the direction of text, line and paragraph
# separators, and surrogates, which stand for bytes that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_BYTES = range(0xDC80, 0xDD00)  # how Python stores a byte that is not UTF-8 (PEP 383)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|\*|\w([\w.-]*\w)?)(:\d{1,5})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_USER = re.compile(r"([^:/@]*[:/])(?=.*@)")


def printable(text: object) -> str:
    r"""The text on one line for a terminal or a log, with control characters as escapes: \x1b."""
    return _UNSAFE.sub(_escape, str(text))


def printable_lines(text: str) -> str:
    """Several lines, such as a traceback, each of them `printable`."""
    return "\n".join(map(printable, text.splitlines()))


def _escape(found: re.Match[str]) -> str:
    letter, code = found[0], ord(found[0])
    if code in _BYTES:
        code -= 0xDC00
    return _SHORT.get(letter) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def shown_source(text: str) -> str:
    """What names a source, for messages: of an address only scheme, host and port.

    Everything else in an address may hold a password, also where a mistake in it hides which part
    is the password. Then the host is left out too.
    """
    scheme, _, rest = text.partition("://")
    if not rest or not _SCHEME.fullmatch(scheme):
        user = _USER.match(text) if ":" in text.rpartition("@")[0] else None
        return f"{user[0]}..." if user and not os.path.lexists(text) else text
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    is_clear = "@" not in rest[len(authority) :] and _HOST.fullmatch(host)
    return f"{scheme}://{host}" if is_clear else f"{scheme}://..."


def shown_url(url: str) -> str:
    """The address of a file for messages: scheme, host, port and path, without user and query."""
    shown = shown_source(url)
    return shown if shown.endswith("...") else shown + urlsplit(url).path
