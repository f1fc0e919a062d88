"""Parses YAML and TOML within limits; a hostile text is refused within a second."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError, VisionError, one_line

if TYPE_CHECKING:
    import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_NODES = 50_000  # values in a YAML file, counted again wherever an alias repeats them
_MAX_DEPTH = 50
_MAX_DIGITS = 100
# A dotted key of more parts takes time that grows with their square.
_LONG_KEY = re.compile(
    r"""(?<![\w\\-])(?:(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""", re.ASCII
)


class Yaml(NamedTuple):
    """A YAML document: its content, and the keys of its mapping as they are written.

    A key that is set twice is listed twice; the content has the last value.
    """

    content: Any
    keys: list[str]


def parse_yaml(text: str, subject: str, kind: type[VisionError] = InputError) -> Yaml:
    """Parse YAML. Raises an error of this `kind` that begins with `subject`.

    Only plain data, of at most 50,000 values with all aliases resolved.
    """
    import yaml  # noqa: PLC0415 - imported only if there is a file, to start faster

    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster
    try:
        _check_events(yaml.parse(text, Loader=parser))
        loader = parser(text)
        root = loader.get_single_node()
        if root is None:
            return Yaml(None, [])
        _expanded(root, {})
        content = loader.construct_document(root)
    except (  # the constructor lets some of these pass, such as for `!!bool maybe`
        yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
        RecursionError,
    ) as error:  # fmt: skip
        reason = one_line(error)
        raise kind(f"{subject}: not valid YAML: {reason}") from error
    is_mapping = isinstance(root, yaml.MappingNode)
    return Yaml(content, [str(key.value) for key, _ in root.value] if is_mapping else [])


def _check_events(events: Any) -> None:
    """Raise `ValueError` if a document has too many values or is nested too deeply.

    Before it is composed, which would need memory for all values, and stack for all levels.
    """
    depth = 0
    for count, event in enumerate(events):
        name = type(event).__name__
        depth += name.endswith("StartEvent")
        depth -= name.endswith("EndEvent")
        if count > 2 * _MAX_NODES or depth > _MAX_DEPTH:
            raise ValueError(f"expected at most {_MAX_NODES} values, nested {_MAX_DEPTH} deep")


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values of a node with all aliases resolved.

    Raises `ValueError` if there are too many, or if a value is not usable.
    """
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:
            raise ValueError("a value contains itself")
        return known
    sizes[id(node)] = 0
    size = 1 + len(node.value) // 16
    if isinstance(node.value, str):
        is_number = node.tag.endswith((":int", ":float"))
        if is_number and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"expected numbers of at most {_MAX_DIGITS} digits")
        node.value.encode()  # UnicodeEncodeError, a ValueError, of half a surrogate pair
    else:
        for entry in node.value:
            pair = entry if isinstance(entry, tuple) else (entry,)
            size += sum(_expanded(one, sizes) for one in pair)
            if size > _MAX_NODES:
                raise ValueError(f"expected at most {_MAX_NODES} values, aliases resolved")
    sizes[id(node)] = size
    return size


def parse_toml(text: str, subject: str, kind: type[VisionError] = InputError) -> dict[str, Any]:
    """Parse TOML. Raises an error of this `kind` that begins with `subject`."""
    try:
        if _LONG_KEY.search(text):
            raise ValueError("expected keys of at most 16 parts")
        tables: dict[str, Any] = tomllib.loads(text)
        _check_numbers(tables)
    except (ValueError, RecursionError) as error:
        raise kind(f"{subject}: not valid TOML: {error}") from error
    return tables


def _check_numbers(value: Any) -> None:
    """Raise `ValueError` if there is an integer of more than 64 bits, as TOML allows none."""
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("expected whole numbers of at most 64 bits")
    elif isinstance(value, (dict, list)):
        for entry in value.values() if isinstance(value, dict) else value:
            _check_numbers(entry)
