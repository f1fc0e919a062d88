"""Settings of the pipeline: the table of all of them, and what is made from it."""

from pipeline.settings.files import Resolved, load_config, resolve
from pipeline.settings.setting import Setting
from pipeline.settings.table import NO_MODEL, SETTINGS, Settings, settings_of

__all__ = [
    "NO_MODEL",
    "SETTINGS",
    "Resolved",
    "Setting",
    "Settings",
    "load_config",
    "resolve",
    "settings_of",
]
