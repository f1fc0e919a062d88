"""Runs a target with many inputs: guided by coverage with atheris, else by mutation alone.

A script calls `instrument` around the imports of what it fuzzes, and then `main`. Its arguments are
those of libFuzzer: `-runs=N`, `-seed=N`, `-max_total_time=SECONDS` and the folder of the corpus.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

LONGEST = 4096
DEFAULT_RUNS = 100_000
INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xc0")


def instrument(package: str) -> contextlib.AbstractContextManager[object]:
    """Measure the coverage of what is imported in this block, if atheris is installed."""
    if atheris is None:
        return contextlib.nullcontext()
    return atheris.instrument_imports(include=[package])


def main(arguments: Sequence[str], target: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Run the target until something else than it expects happens, which ends the process."""
    folders = [Path(argument) for argument in arguments[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number}").write_bytes(seed)
    for seed in seeds:
        target(seed)
    if atheris is not None:
        atheris.Setup(list(arguments), target)
        atheris.Fuzz()
    else:
        _mutate(_options(arguments), target, list(seeds))


def _options(arguments: Sequence[str]) -> dict[str, int]:
    pairs = (argument[1:].partition("=") for argument in arguments if argument.startswith("-"))
    return {name: int(value) for name, _, value in pairs}


def _mutate(options: dict[str, int], target: Callable[[bytes], None], seeds: list[bytes]) -> None:
    """Run the target with mutations of the seeds, and with mutations of those."""
    rng = random.Random(options.get("seed", 0))  # noqa: S311 - the same run each time
    end_s = time.monotonic() + options.get("max_total_time", 10**9)
    pool, runs = list(seeds), 0
    while runs < options.get("runs", DEFAULT_RUNS) and time.monotonic() < end_s:
        runs += 1
        data = mutated(rng.choice(pool), rng.choice(pool), rng)
        try:
            target(data)
        except BaseException:
            traceback.print_exc()
            sys.exit(f"input: {data.hex()}")
        if rng.random() < 0.05:
            pool = [*seeds, *pool[len(seeds) :][-200:], data]
    sys.stderr.write(f"Done {runs} runs\n")


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """An input after one to four random changes; the first byte, which selects, mostly stays."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        end = len(changed)
        at = rng.randrange(end + 1) if rng.random() < 0.1 else rng.randint(1, max(end, 1))
        change = rng.randrange(7)
        if change == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif change == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif change == 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        elif change == 3:
            del changed[at : at + rng.randint(1, 8)]
        elif change == 4:
            value = rng.choice(INTERESTING)
            changed[at : at + len(value)] = value
        elif change == 5:
            start = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + rng.randint(1, 64)]
        else:
            start = rng.randrange(len(other) + 1)
            changed[at:] = other[start:]
    return bytes(changed[:LONGEST]) or b"\0"
