"""Runs a fuzz target: with atheris where it is installed, else on random mutations of seeds."""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

MAX_BYTES = 4096


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The data with a few changes: bits, bytes, blocks that are removed, repeated or exchanged."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        start = rng.randint(0, len(changed))
        end = min(start + rng.choice((1, 1, 2, 8, 64)), len(changed))
        block = bytes(changed[start:end])
        other = rng.choice(others)
        at = rng.randint(0, len(other))
        changed[start:end] = rng.choice(
            (
                b"",
                rng.randbytes(rng.choice((1, 1, 2, 8))),
                bytes(byte ^ 1 << rng.randrange(8) for byte in block),
                block * 2,
                other[at : at + rng.choice((1, 4, 32))],
            )
        )
    return bytes(changed[:MAX_BYTES])


def run_mutations(target: Callable[[bytes], object], seeds: Sequence[bytes], runs: int) -> None:
    """Call the target with the seeds and with mutations of them; raises what it raises."""
    rng = random.Random(1)  # noqa: S311 - so that a failure can be repeated
    pool = list(seeds)
    for number in range(runs):
        data = pool[number] if number < len(seeds) else mutated(rng.choice(pool), pool, rng)
        try:
            target(data)
        except BaseException:
            print(f"input {number}: {data!r}", file=sys.stderr)  # noqa: T201 - to repeat it
            raise
        if rng.random() < 0.02:  # changes of changes go further from the seeds
            pool[rng.randrange(len(pool))] = data
    print(f"Done {runs} runs", file=sys.stderr)  # noqa: T201 - as libFuzzer does


def main(target: Callable[[bytes], object], seeds: Sequence[bytes], arguments: list[str]) -> None:
    """Run a target with libFuzzer's arguments, of which only `-runs` counts without atheris."""
    if importlib.util.find_spec("atheris") is None:
        parser = argparse.ArgumentParser()
        parser.add_argument("-runs", type=int, default=100_000)
        run_mutations(target, seeds, parser.parse_known_args(arguments[1:])[0].runs)
        return
    import atheris  # noqa: PLC0415 - not everywhere

    for folder in [Path(a) for a in arguments[1:] if not a.startswith("-")][:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup(arguments, target)
    atheris.Fuzz()
