"""The `vision` command: the table of its subcommands, and the exit code of each error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from pipeline.cli import console
from pipeline.cli.signals import Interrupted, is_interruption
from pipeline.errors import one_line

PROGRAM = "vision"


class Entry(NamedTuple):
    """A subcommand: its name, its module in `pipeline.cli.commands`, and a summary for the help."""

    name: str
    module: str
    summary: str


SECTIONS = {
    "Run": (
        Entry("run", "run", "Detect and classify the objects in a video source"),
        Entry("demo", "demo", "Try the built-in demo scene; needs no camera and no files"),
    ),
    "Run as several processes": (
        Entry("camera", "camera", "Publish the frames of a source"),
        Entry("detect", "detect", "Detect objects in published frames"),
        Entry("view", "view", "Show or record published results"),
        Entry("keys", "keys", "Create a key pair for connections over a network"),
    ),
    "Work with models": (
        Entry("models", "zoo.models", "List, download and verify models"),
        Entry("compare", "zoo.compare", "Compare models on the same images"),
        Entry("choose", "zoo.choose", "Find the network that fits this machine"),
        Entry("evaluate", "zoo.evaluate", "Measure accuracy on labelled images"),
        Entry("head", "zoo.head", "Train a classifier on your own classes"),
        Entry("quantize", "zoo.quantize", "Convert a float model to int8"),
        Entry("import-darknet", "zoo.import_darknet", "Convert a Darknet model to ONNX"),
    ),
    "Set up": (
        Entry("config", "config", "Show the effective settings and where they come from"),
        Entry("doctor", "doctor", "Check this machine and the installation"),
        Entry("completion", "completion", "Print a script for shell completion"),
    ),
}
"""The subcommands by section of the help; to add one, write its module and add a line here."""


class Subcommands(click.Group):
    """Imports a subcommand when it is used, so that `vision --help` starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entries in SECTIONS.values() for entry in entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entries in SECTIONS.values():
            for entry in entries:
                if entry.name == cmd_name:
                    module = import_module(f"pipeline.cli.commands.{entry.module}")
                    found: click.Command = getattr(module, cmd_name.replace("-", "_"))
                    return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for section, entries in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in entries])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib import metadata

        print(f"{PROGRAM} {metadata.version(PROGRAM)}")
        ctx.exit()


app = Subcommands(
    PROGRAM,
    help="Real-time object detection and classification for robots, on their own CPU.",
    epilog="'vision COMMAND --help' describes a command and its options.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        )
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process; returns the exit code."""
    try:
        code = _run(arguments)
    finally:
        console.finish()
    if arguments is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process at once; all files are closed by now.

    A normal exit would first unload the libraries. On a busy machine this takes longer than a stop
    may take, and the libraries abort if a thread is still inside a driver or a model.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or console.report(error)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        return _report_usage(error)
    except click.Abort:
        return console.EXIT_FAULT
    except (Exception, KeyboardInterrupt, Interrupted) as error:  # users see no traceback
        return console.EXIT_STOPPED if is_interruption(error) else console.report(error)
    return code if isinstance(code, int) else console.EXIT_OK


def _report_usage(error: click.ClickException) -> int:
    """Print one line for a wrong option, or the help if no subcommand was given."""
    if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and newer
        print(error.format_message())  # the help
        return console.EXIT_BAD_INPUT
    message = one_line(error.format_message())
    context = getattr(error, "ctx", None)
    command = context.command_path if context else PROGRAM
    console.say(f"error: {message.rstrip('.')}; see '{command} --help'")
    return console.EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
