"""`vision config`: shows the effective settings, their schema, or the reference of all settings."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.cli import console
from pipeline.cli.options import CONFIG, Command, Option, option_of
from pipeline.settings import SETTINGS, resolve


def show_settings(*, config: Path | None, schema: bool, reference: bool, **options: object) -> None:
    """Show the effective settings and where each of them comes from.

    Covers run, demo, camera, detect and view, which read files and VISION_* variables; other
    commands take options only. The output is a YAML file that --config reads. A setting that a
    command does not use has no effect on it.

    \b
    Examples:
      vision config                    from VISION_* variables and defaults
      vision config --config robot.yaml --score 0.4
      vision config > robot.yaml       a file with every setting, to edit
      vision config --schema > vision.schema.json
    An editor completes and checks a file that begins with this line:
      # yaml-language-server: $schema=vision.schema.json
    """
    from pipeline.settings import pages

    if schema:
        print(json.dumps(pages.schema(), indent=2))
    elif reference:
        print(pages.reference(), end="")
    else:
        console.configure()
        print(pages.effective_file(resolve(None, options, config, os.environ)), end="")


config = Command(
    "config",
    params=[
        Option("--schema", is_flag=True, text="print a JSON Schema of the file, for editors"),
        Option("--reference", is_flag=True, text="print the reference page, in Markdown"),
        *(option_of(setting) for setting in SETTINGS.values() if setting.name != "source"),
        CONFIG,
    ],
    callback=show_settings,
    help=show_settings.__doc__,
)
