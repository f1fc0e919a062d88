"""The `vision` command: its subcommands, and what any error of theirs turns into.

Nothing heavy is imported here or at the top of a subcommand, so that `vision --help` answers at
once; each command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from pipeline.cli import (
    camera,
    choose,
    compare,
    console,
    demo,
    detect,
    doctor,
    evaluate,
    head,
    import_darknet,
    keys,
    models,
    quantize,
    run,
    view,
)
from pipeline.cli.signals import Interrupted, is_interruption
from pipeline.cli.waiting import EXIT_STOPPED

# typer brings its own copy of click or the one of PyPI, as its version goes; this is either's.
_USAGE_ERRORS: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Real-time object detection and classification for robots, on their own CPU.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("demo")(demo.demo)
app.command("camera")(camera.camera)
app.command("detect")(detect.detect)
app.command("view")(view.view)
app.command("keys")(keys.keys)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")
app.command("import-darknet")(import_darknet.import_darknet)
app.command("evaluate")(evaluate.evaluate)
app.command("head")(head.head)
app.command("compare", context_settings={"allow_extra_args": True})(compare.compare)
app.command("quantize")(quantize.quantize)
app.command("choose")(choose.choose)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the one of this process; returns the exit code."""
    try:
        code = _run(arguments)
    finally:
        console.finish()
    if arguments is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process as it stands; all files are closed by now.

    An ordinary end would take the libraries down first. On a busy machine that takes longer than a
    stop may, and under a thread that is stuck in a driver or in a model they abort.
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
        code = app(args=arguments, prog_name="vision", standalone_mode=False)
    except _USAGE_ERRORS as error:
        return _report_usage(error)
    except typer.Abort:
        return console.EXIT_FAULT
    except (
        Exception,
        KeyboardInterrupt,
        Interrupted,
    ) as error:  # no traceback leaves this
        return EXIT_STOPPED if is_interruption(error) else console.report(error)
    return code if isinstance(code, int) else console.EXIT_OK


def _report_usage(error: Any) -> int:
    """One line for a wrong option; the help itself where no command was given."""
    message = " ".join(error.format_message().split())
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return console.EXIT_BAD_INPUT
    command = error.ctx.command_path if getattr(error, "ctx", None) else "vision"
    console.say(f"error: {message.rstrip('.')}; see '{command} --help'")
    return console.EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
