"""Makes commands of functions: their options come from the settings table."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.cli import console
from pipeline.cli.option_checks import check_output_paths, warn_of_unused_options
from pipeline.cli.progress import interruptible, offer_models
from pipeline.cli.shortage import check_limits
from pipeline.cli.signals import StopSignals
from pipeline.errors import ConfigError
from pipeline.settings import SETTINGS, Setting, Settings, resolve, settings_of
from pipeline.settings.table import ADDRESSES, GENERAL, GROUPS

ARGUMENTS, OPTIONS = "Arguments", "Options"
_SECTIONS = (ARGUMENTS, OPTIONS, *GROUPS)
_WIDEST = 24  # letters of an option that shares its line with the help
_METAVARS = {int: "COUNT", float: "NUMBER"}

PATH = click.Path(path_type=Path)

logger = logging.getLogger(__name__)


class Argument(click.Argument):
    """A positional argument with a description in the help."""

    group = ARGUMENTS

    def __init__(self, name: str, *, text: str, **more: Any) -> None:
        super().__init__([name], **more)
        self._text = text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.metavar or str(self.name).upper(), self._text


class Option(click.Option):
    """An option in a section of the help, which shows its default in brackets."""

    def __init__(self, *names: str, text: str, group: str = OPTIONS, **more: Any) -> None:
        default = more.get("default")
        shown = text if default is None else f"{text} [{default}]"
        super().__init__(names, help=shown, **more)
        self.group = group


class Command(click.Command):
    """A command whose help shows the options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = getattr(parameter, "group", GENERAL)
                sections.setdefault(group, []).append(record)
        names = [name for rows in sections.values() for name, _ in rows]
        width = max(len(name) for name in names if len(name) <= _WIDEST)
        for section in sorted(sections, key=_SECTIONS.index):
            with formatter.section(section):
                rows = [(name.ljust(width), text) for name, text in sections[section]]
                formatter.write_dl(rows, col_max=width)


class CommandGroup(click.Group):
    """A group whose help shows the whole first sentence of each command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(1000)) for name, one in self.commands.items()]
            )


def option_of(setting: Setting, command: str = "") -> click.Parameter:
    """The option or argument of a setting; its value is None if it was not given."""
    about, default = setting.about, setting.default_of(command)
    if not setting.option.startswith("-"):
        return Argument(
            setting.name,
            text=about.help,
            required=False,
            metavar=setting.option,
            shell_complete=_complete,
        )
    flags = setting.flags
    kind: dict[str, Any] = {}
    if setting.is_switch:
        kind["is_flag"] = True
        flags = ("/".join(flags),) if about.unset else flags  # the second one turns it off
    else:
        metavar = "|".join(setting.choices) or about.metavar or _METAVARS.get(setting.base)
        kind.update(metavar=metavar, multiple=setting.is_list, shell_complete=_complete)
    shown = about.unset or ("" if default in (None, (), False) else str(default))
    return Option(
        *flags,
        setting.name,
        group=about.group,
        text=f"{about.help} [{shown}]" if shown else about.help,
        default=None,
        callback=_check,
        **kind,
    )


def _check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    setting = SETTINGS[str(param.name)]
    return setting.check_text(value, setting.option) if isinstance(value, str) else value


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    choices = SETTINGS[str(param.name)].choices
    if choices:
        return [CompletionItem(one) for one in choices if one.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file")]


def _configure_console(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    console.configure(debug=value)


DEBUG = Option(
    "--debug",
    group=GENERAL,
    is_flag=True,
    expose_value=False,
    callback=_configure_console,
    text=SETTINGS["debug"].about.help,
)
CONFIG = Option(
    "--config",
    group=GENERAL,
    type=PATH,
    metavar="FILE.yaml",
    envvar="VISION_CONFIG",
    text="read settings from a file; options and VISION_* variables take precedence",
)
YES = Option(
    "--yes", "-y", group=GENERAL, is_flag=True, text="download missing models without asking"
)


NEW_MODEL = Option(
    "--output", "-o", type=PATH, required=True, metavar="MODEL.onnx", text="file to write"
)
FIGURES = Option("--json", "json_file", type=PATH, metavar="FILE", text="write all figures as JSON")

Decorator = Callable[[Callable[..., None]], Command]


def command(name: str, *own: click.Parameter) -> Decorator:
    """Make a command of a function that takes its `own` parameters and its settings by name.

    A signal ends it, also while it is inside a library.
    """
    applying = settings_of(name)
    parameters = [*own, *(option_of(setting, name) for setting in applying), DEBUG]

    def decorate(function: Callable[..., None]) -> Command:
        def call(**given: Any) -> None:
            for setting in applying:
                if given[setting.name] is None:
                    given[setting.name] = setting.default_of(name)
            check_limits()
            with interruptible(outcome=""):
                function(**given)

        return Command(name, params=parameters, callback=call, help=function.__doc__)

    return decorate


def pipeline_command(name: str, *own: click.Parameter) -> Decorator:
    """Make a command of a function that takes settings, signals, and its `own` parameters by name.

    Models that are missing are downloaded first, if the user agrees. Signals stop the function,
    also while it imports the engine.
    """
    applying = settings_of(name)
    uses_models = SETTINGS["detector"] in applying
    parameters = [*own, *(option_of(setting, name) for setting in applying), CONFIG]
    parameters += [YES] if uses_models else []

    def decorate(function: Callable[..., None]) -> Command:
        def call(*, config: Path | None, yes: bool = False, **given: Any) -> None:
            check_limits(models=uses_models)
            more = {one.name: given.pop(one.name) for one in own if one.name}
            settings = _load_settings(name, given, config, more.get("output"))
            if uses_models:
                offer_models((settings.detector, settings.classifier), yes=yes)
            with StopSignals() as signals:
                function(settings, signals, **more)

        return Command(name, params=parameters, callback=call, help=function.__doc__)

    return decorate


def _load_settings(
    name: str, options: Mapping[str, object], config: Path | None, output: Path | None
) -> Settings:
    """The settings of a pipeline command; also configures the log lines and warns of clashes."""
    console.configure(debug=bool(options["debug"]))
    found = resolve(name, options, config, os.environ)
    settings = found.settings
    check_output_paths(settings, config, output)
    console.configure(quiet=settings.quiet, debug=settings.debug)
    if found.unused:
        logger.info("config %s: not for this command: %s", config, ", ".join(found.unused))
    warn_of_unused_options(settings, found.origins)
    return settings


def require(settings: Settings, *names: str) -> None:
    """Check that settings without a default are given. Raises `ConfigError`."""
    for name in names:
        if getattr(settings, name) in (None, ()):
            raise ConfigError(_MISSING[name])


_MISSING = {
    "source": "SOURCE is missing; expected a camera number, a file or an address (see --help)",
    "subscribe": f"--subscribe ADDRESS is missing: where messages come from, {ADDRESSES}",
    "publish": f"--publish ADDRESS is missing: where the frames are sent, {ADDRESSES}",
}
