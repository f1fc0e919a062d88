"""Settings as a configuration file, as a JSON Schema, and as a reference page in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.settings.files import Resolved
from pipeline.settings.setting import Setting
from pipeline.settings.table import GROUPS, SETTINGS, Settings
from pipeline.text.display import printable

_INTRODUCTION = """\
# Settings

Each setting is an option of the commands that it applies to. `vision run`, `demo`, `camera`,
`detect` and `view` also read it from a YAML file (`--config FILE.yaml`) and from the environment:
`--nms-kind` is the key `nms_kind` and the variable `VISION_NMS_KIND`. An option takes precedence
over the environment, the environment over the file, and the file over the default. Lists in the
environment are separated by spaces.

`vision config` prints the effective settings and where each comes from, as such a file.
`vision config --schema` prints a JSON Schema of the file, for editors. This page is printed by
`vision config --reference`.
"""
_COLUMNS = ("option", "meaning", "value", "default", "commands", "ROS parameter")


def effective_file(resolved: Resolved) -> str:
    """The settings as a YAML file that `--config` reads, with the origin of each as a comment."""
    lines: list[str] = []
    for group, settings in _by_group(SETTINGS[name] for name in resolved.origins):
        lines += ["", f"# {group}"] if lines else [f"# {group}"]
        for one in settings:
            entry = f"{one.name}: {_as_yaml(getattr(resolved.settings, one.name))}"
            lines.append(f"{entry:<40}  # {printable(resolved.origins[one.name])}")
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file for `--config`."""
    document = msgspec.json.schema(Settings)["$defs"]["Settings"]
    properties = document["properties"]
    for name, one in SETTINGS.items():
        properties[name]["description"] = one.about.help
        if "_" in name:  # a file may have the option's name as well
            properties[name.replace("_", "-")] = properties[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of vision",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def reference() -> str:
    """The reference page: a table of settings for each group."""
    parts = [_INTRODUCTION]
    for group, settings in _by_group(SETTINGS.values()):
        rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, settings)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"## {group}\n\n{table}\n")
    return "\n".join(parts)


def _row(one: Setting) -> tuple[str, ...]:
    about = one.about
    default = about.unset or ("" if one.default in (None, ()) else f"`{_as_yaml(one.default)}`")
    others = (f", `{_as_yaml(value)}` for {name}" for name, value in about.defaults.items())
    return (
        " ".join(f"`{flag}`" for flag in one.flags),
        about.help,
        one.expected,
        (default + "".join(others)).removeprefix(", "),
        ", ".join(about.commands),
        f"`{about.ros}` of {', '.join(about.nodes)}" if about.ros else "",
    )


def _by_group(settings: Iterable[Setting]) -> list[tuple[str, list[Setting]]]:
    """The groups that have settings, in the order of the help."""
    found = list(settings)
    grouped = [(group, [one for one in found if one.about.group == group]) for group in GROUPS]
    return [(group, members) for group, members in grouped if members]


def _as_yaml(value: object) -> str:
    """A value in YAML; JSON is a part of it."""
    return json.dumps(value)
