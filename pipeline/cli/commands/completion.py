"""`vision completion`: prints the script that completes commands and options in a shell."""

from __future__ import annotations

from typing import cast

import click
from click.shell_completion import get_completion_class

from pipeline.cli.options import Argument, command

SHELLS = ("bash", "zsh", "fish")


@command(
    "completion", Argument("shell", text="the shell to print it for", type=click.Choice(SHELLS))
)
def completion(shell: str) -> None:
    """Print a script that makes a shell complete commands and options.

    \b
    Install it once:
      vision completion bash >> ~/.bashrc
      vision completion zsh >> ~/.zshrc
      vision completion fish > ~/.config/fish/completions/vision.fish
    Or only for this shell:
      eval "$(vision completion bash)"
    """
    context = click.get_current_context().find_root()
    script = cast(type[click.shell_completion.ShellComplete], get_completion_class(shell))
    print(script(context.command, {}, "vision", "_VISION_COMPLETE").source())
