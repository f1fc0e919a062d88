"""`vision keys`: who may talk to whom over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli import options as opt


def keys(
    name: Annotated[
        str,
        typer.Argument(help="what the machine or process is called", metavar="NAME"),
    ],
    folder: Annotated[
        Path,
        typer.Option("--folder", help="where the files go", metavar="FOLDER", show_default="here"),
    ] = Path(),
    debug: opt.Debug = None,
) -> None:
    """Make a key pair: NAME.key to give away, NAME.key_secret to keep.

    Each end has a pair of its own and the public key of every other end that it talks to.

    \b
    Examples:
      vision keys drone         on the drone; then copy drone.key to the ground
      vision keys ground        on the ground; then copy ground.key to the drone
    """
    console.configure(debug=bool(debug))
    from pipeline.transport.zmq.keys import make_keys

    public, secret = make_keys(folder, name)
    print(f"{public}: copy this one to every machine that {name} talks to (--peer {public.name})")
    print(f"{secret}: keep this one here and secret; only you can read it (--key {secret.name})")
