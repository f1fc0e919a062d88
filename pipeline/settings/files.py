"""Settings from the command line, the environment and YAML files, and where each came from."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.settings.setting import VARIABLES, shown
from pipeline.settings.table import SETTINGS, Settings, settings_of
from pipeline.text.files import read_text
from pipeline.text.formats import parse_yaml

DEFAULT = "default"
_NO_SETTINGS = ("VISION_CONFIG", "VISION_MODELS")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """The settings of a command.

    `origins` has an entry for each setting that applies: `option --score`,
    `environment VISION_SCORE`, `file robot.yaml` or `default`. `unused` are keys of the file
    that do not apply to the command.
    """

    settings: Settings
    origins: Mapping[str, str]
    unused: tuple[str, ...] = ()


def resolve(
    command: str | None,
    options: Mapping[str, object],
    config: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Combine the settings of a command; None stands for all settings.

    Precedence: option, environment, file, default.
    `options` are values by the name of the setting; None and () stand for an option not given.
    Logs a warning of each `VISION_` variable that is not a setting.

    Raises `ConfigError` that names the subject, what was expected and what was given.
    """
    applying = list(SETTINGS.values()) if command is None else settings_of(command)
    in_file = load_config(config) if config is not None else {}
    environment = environment or {}
    _warn_of_unknown(environment)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for one in applying:
        option, text = options.get(one.name), environment.get(one.variable)
        value, origin = one.default_of(command or ""), DEFAULT
        if option not in (None, ()):
            value, origin = one.check(option, one.option), f"option {one.option}"
        elif text:
            value, origin = one.check_text(text, one.variable), f"environment {one.variable}"
        elif one.name in in_file:
            value, origin = in_file[one.name], f"file {config}"
        values[one.name], origins[one.name] = value, origin
    unused = tuple(name for name in SETTINGS if name in in_file and name not in values)
    return Resolved(Settings(**values), origins, unused)


def load_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, checked, by name; an empty file has none.

    Raises `ConfigError` if the file cannot be read or is not a YAML mapping, for an unknown key,
    and for a value out of its range.
    """
    content, keys = _read_mapping(path)
    for key in keys:  # YAML itself would use the last one
        if keys.count(key) > 1:
            raise ConfigError(f"config {path}: {key} is set twice; remove one of them")
    settings: dict[str, Any] = {}
    for written, value in content.items():
        name = _known_name(written, path)
        if name in settings:
            raise ConfigError(f"config {path}: {name} is set twice; remove one of them")
        if value is not None:
            settings[name] = SETTINGS[name].check(value, f"config {path}: {written}")
    return settings


def _read_mapping(path: str | Path) -> tuple[dict[object, object], list[str]]:
    """The mapping in a YAML file, and its keys as they are written."""
    subject = f"config {path}"
    text = read_text(os.path.expanduser(path), kind=ConfigError, subject=subject)
    content, keys = parse_yaml(text, subject, ConfigError)
    if content is None:
        return {}, []
    if not isinstance(content, dict):
        raise ConfigError(
            f"{subject}: expected lines such as 'score: 0.4', but got {shown(content)}"
        )
    return content, keys


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    known = {one.variable for one in SETTINGS.values()}.union(_NO_SETTINGS)
    for variable in environment:
        if variable.startswith(VARIABLES) and variable not in known:
            near = difflib.get_close_matches(variable, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else "'vision config' lists the settings"
            log.warning("environment %s: not a setting; %s", variable, hint)


def _known_name(key: object, path: str | Path) -> str:
    name = str(key).replace("-", "_")
    if name in SETTINGS:
        return name
    if name == "latest":
        raise ConfigError(f"config {path}: latest is not a setting; write 'every_frame: false'")
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(SETTINGS)}"
    raise ConfigError(f"config {path}: {shown(key)} is not a setting; {hint}")
