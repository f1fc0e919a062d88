"""Settings as a configuration file, as a JSON Schema, and as a reference page in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.settings.files import Resolved
from pipeline.settings.setting import Setting
from pipeline.settings.table import GROUPS, PIPELINES, SETTINGS, Settings

REFERENCE_INTRODUCTION = """\
# Settings

Every setting is an option of the commands that it applies to. The commands that run a pipeline
({pipelines}) also read it from a YAML file (`--config FILE.yaml`) and from the
environment. An option takes precedence over the environment, the environment over the file, and
the file over the default. `vision config` prints the effective settings and where each comes from;
`vision config --schema` prints a JSON Schema of the file, for editors.
"""


def effective_file(resolved: Resolved) -> str:
    """The settings as a YAML file that `--config` reads, with the origin of each as a comment."""
    lines: list[str] = []
    for group, settings in _by_group(SETTINGS[name] for name in resolved.origins):
        lines += ["", f"# {group}"] if lines else [f"# {group}"]
        for one in settings:
            entry = f"{one.name}: {_as_yaml(getattr(resolved.settings, one.name))}"
            lines.append(f"{entry:<40}  # {resolved.origins[one.name]}")
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
    """The reference page: all settings by group."""
    commands = ", ".join(f"`vision {command}`" for command in PIPELINES)
    parts = [REFERENCE_INTRODUCTION.format(pipelines=commands)]
    for group, settings in _by_group(SETTINGS.values()):
        parts.append(f"\n## {group}\n")
        parts += [_entry(one) for one in settings]
    return "\n".join(parts)


def _entry(one: Setting) -> str:
    about = one.about
    rows = [
        f"### `{one.name}`\n",
        f"{about.help[0].upper()}{about.help[1:]}.\n",
        f"- Option: `{' / '.join(one.flags)}`; environment: `{one.variable}`",
        f"- Value: {one.expected}; default: {_default(one)}",
        f"- Commands: {', '.join(about.commands)}",
    ]
    if about.ros:
        rows.append(f"- ROS parameter: `{about.ros}` of {', '.join(about.nodes)}")
    return "\n".join(rows) + "\n"


def _default(one: Setting) -> str:
    default = "none" if one.default in (None, ()) else f"`{_as_yaml(one.default)}`"
    text = one.about.unset or default
    others = (f", `{_as_yaml(value)}` for {name}" for name, value in one.about.defaults.items())
    return text + "".join(others)


def _by_group(settings: Iterable[Setting]) -> list[tuple[str, list[Setting]]]:
    """The groups that have settings, in the order of the help."""
    found = list(settings)
    grouped = [(group, [one for one in found if one.about.group == group]) for group in GROUPS]
    return [(group, members) for group, members in grouped if members]


def _as_yaml(value: object) -> str:
    """A value in YAML; JSON is a part of it."""
    return json.dumps(value)
