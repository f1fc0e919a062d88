"""Settings of the pipeline: the table of all of them, and what is made from it."""

from pipeline.settings.files import Resolved, load_config, resolve
from pipeline.settings.setting import MAX_SIDE, NmsKind, Payload, Setting, checked
from pipeline.settings.table import NO_MODEL, SETTINGS, Settings, settings_of

__all__ = [
    "MAX_SIDE",
    "NO_MODEL",
    "SETTINGS",
    "NmsKind",
    "Payload",
    "Resolved",
    "Setting",
    "Settings",
    "checked",
    "load_config",
    "resolve",
    "settings_of",
]
