"""`vision keys`: creates the key pair of a machine or process for connections over a network."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli import console
from pipeline.cli.options import PATH, Argument, Option, command


@command(
    "keys",
    Argument("name", text="name of the machine or process"),
    Option(
        "--folder",
        type=PATH,
        default=Path(),
        metavar="FOLDER",
        text="folder for the two files",
    ),
)
def keys(name: str, folder: Path) -> None:
    """Create a key pair: NAME.key to hand out and NAME.key_secret to keep.

    Each machine has a key pair of its own and the public keys of those it connects to.

    \b
    Examples:
      vision keys drone         on the drone; then copy drone.key to the ground
      vision keys ground        on the ground; then copy ground.key to the drone
    """
    from pipeline.transport import make_keys

    public, secret = make_keys(folder, name)
    console.show(f"{public}: copy to every machine that {name} connects to (--peer {public.name})")
    console.show(f"{secret}: keep here and secret; only you can read it (--key {secret.name})")
