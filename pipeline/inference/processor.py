"""The processor's name, features and cores."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

_VNNI = {"avx512_vnni", "avx_vnni"}
_DOT_PRODUCTS = {*_VNNI, "asimddp", "i8mm"}


class Processor(NamedTuple):
    """The processor's name and features, as Linux spells them; no features if it names none."""

    name: str
    features: frozenset[str]


@functools.cache
def processor() -> Processor:
    """The processor that this process runs on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor(platform.processor() or platform.machine(), frozenset())
    fields = dict(re.findall(r"^(model name|Model|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    name = fields.get("model name") or fields.get("Model") or platform.machine()
    return Processor(name, frozenset((fields.get("flags") or fields.get("Features") or "").split()))


def available_threads() -> int:
    """Cores that this process may use (its affinity mask, which containers and taskset set)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def adds_int8_in_16_bits(features: frozenset[str]) -> bool:
    """Whether the int8 products of these CPU features can overflow: x86 before VNNI.

    One instruction adds two products of uint8 and int8 in 16 bits and saturates the sum.
    """
    return "sse2" in features and not features & _VNNI


def has_int8_dot_products(features: frozenset[str]) -> bool:
    """Whether one instruction multiplies and adds four pairs of int8: VNNI, or dotprod on Arm."""
    return bool(features & _DOT_PRODUCTS)
