"""Injected faults, to test how a program handles failing cameras: `scene:?drop=0.05`.

The text after the `?` of the scene or of a file states the faults. The same seed gives the same
faults at the same frames.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

import numpy as np

from pipeline.errors import CaptureError, FrameError, SourceError
from pipeline.source import DEFAULT_FPS, Source, SourceWrapper
from pipeline.types import Frame, Image

FORM = "?drop=0.05&corrupt=0.01&delay_ms=80&freeze_every=10s&freeze_for=1s&die_after=30s"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
_MAX_S = 1e6


@dataclasses.dataclass(frozen=True)
class Faults:
    """What fails, and when in the source's own time (frame number over rate).

    - `drop`: the share of the frames that are lost; each uses up its number
    - `corrupt`: the share that is damaged: half do not decode, half have a band of noise
    - `delay_s`: frames of a live source arrive this much later than their stamp, at an unchanged
      rate; reading a frame of a file takes this much longer
    - `freeze_every_s`, `freeze_for_s`: how often and for how long one image is repeated
    - `die_after_s`: the source breaks
    - `hang_after_s`: reading never returns, not even when the source is closed
    """

    drop: float = 0.0
    corrupt: float = 0.0
    delay_s: float = 0.0
    freeze_every_s: float | None = None
    freeze_for_s: float = 1.0
    die_after_s: float | None = None
    hang_after_s: float | None = None
    seed: int = 0


def _part(value: str) -> float:
    part = float(value)
    if not 0 <= part <= 1:
        raise ValueError
    return part


def _seconds(value: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m)?", value)
    if match is None or not 0 < float(match[1]) <= _MAX_S:
        raise ValueError
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def _milliseconds(value: str) -> float:
    milliseconds = float(value)
    if not 0 <= milliseconds <= 60_000:
        raise ValueError
    return milliseconds / 1000


_READERS: dict[str, tuple[str, Callable[[str], float], str]] = {
    "drop": ("drop", _part, "a share from 0 to 1"),
    "corrupt": ("corrupt", _part, "a share from 0 to 1"),
    "delay_ms": ("delay_s", _milliseconds, "milliseconds up to 60000"),
    "freeze_every": ("freeze_every_s", _seconds, "a time such as 10s or 500ms"),
    "freeze_for": ("freeze_for_s", _seconds, "a time such as 1s or 500ms"),
    "die_after": ("die_after_s", _seconds, "a time such as 30s or 500ms"),
    "hang_after": ("hang_after_s", _seconds, "a time such as 30s or 500ms"),
}
_SEED = "seed"


def split_scene(text: str) -> tuple[str, Faults | None]:
    """Split `scene:?size=64x48&drop=0.1` into the scene's text and the faults; both use the seed.

    Raises `SourceError` if the value of a fault is invalid.
    """
    head, mark, query = text.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = [(name, value) for name, value in pairs if name not in _READERS]
    if len(own) == len(pairs):
        return text, None
    seeds = [pair for pair in own if pair[0] == _SEED]
    faults = _faults([*(pair for pair in pairs if pair[0] in _READERS), *seeds], text)
    return head + (mark + urlencode(own) if own else ""), faults


def split_path(text: str) -> tuple[str, Faults | None]:
    """Split `drive.mp4?drop=0.1` into path and faults; an existing file of that name is first.

    Raises `SourceError` if the text after the `?` of an existing file does not state faults.
    """
    head, mark, query = text.rpartition("?")
    if not mark or "=" not in query or "\0" in text or os.path.lexists(text):
        return text, None
    pairs = parse_qsl(query, keep_blank_values=True)
    is_file = os.path.exists(os.path.expanduser(head))
    if not is_file and not any(name in _READERS for name, _ in pairs):
        return text, None  # a pattern with a ? in it
    return head, _faults(pairs, text)


def _faults(pairs: list[tuple[str, str]], subject: str) -> Faults:
    values: dict[str, float] = {}
    for name, value in pairs:
        field, read, expected = _READERS.get(name, (name, int, "a whole number"))
        if name not in _READERS and name != _SEED:
            near = difflib.get_close_matches(name, [*_READERS, _SEED], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_READERS)}"
            raise SourceError(f"{subject}: unknown fault '{name}'; {hint}")
        try:
            values[field] = read(value)
        except ValueError:
            raise SourceError(
                f"{subject}: {name} cannot be '{value}'; expected {expected}, e.g. {FORM}"
            ) from None
    faults = Faults(**values)  # type: ignore[arg-type]
    if faults.freeze_every_s is not None and faults.freeze_for_s >= faults.freeze_every_s:
        raise SourceError(
            f"{subject}: freeze_for ({faults.freeze_for_s:g} s) must be shorter than "
            f"freeze_every ({faults.freeze_every_s:g} s)"
        )
    return faults


class Faulty(SourceWrapper[Frame]):
    """Another source, with faults."""

    def __init__(self, source: Source[Frame], faults: Faults) -> None:
        super().__init__(source)
        self._faults = faults
        self._closed = threading.Event()
        self._started_s: float | None = None
        self._still: Frame | None = None
        self._late: deque[Frame] = deque()
        self._is_over = False

    def read(self) -> Frame | None:
        while True:
            frame = self._next()
            if frame is None:
                return None
            now_s = self._time_s(frame)
            self._break_down(frame, now_s)
            chance = random.Random(f"{self._faults.seed} {frame.seq}")  # noqa: S311 - repeatable
            if chance.random() >= self._faults.drop:
                return self._spoil(frame, now_s, chance)

    def close(self) -> None:
        self._closed.set()
        super().close()

    def _next(self) -> Frame | None:
        delay_s = self._faults.delay_s
        if not delay_s:
            return self._source.read()
        if self.live:
            return self._next_late(round(delay_s * 1e9))
        return None if self._closed.wait(delay_s) else self._source.read()

    def _next_late(self, delay_ns: int) -> Frame | None:
        """The newest frame that is due; reads the source while waiting, so that none is missed."""
        while not self._closed.is_set():
            due_ns = time.time_ns() - delay_ns
            while len(self._late) > 1 and self._late[1].stamp_ns <= due_ns:
                self._late.popleft()
            if self._late and self._late[0].stamp_ns <= due_ns:
                return self._late.popleft()
            if not self._is_over:
                frame = self._source.read()
                self._is_over = frame is None
                if frame is not None:
                    self._late.append(frame)
            elif self._late:
                self._closed.wait((self._late[0].stamp_ns - due_ns) / 1e9)
            else:
                break
        return None

    def _time_s(self, frame: Frame) -> float:
        if self.fps or frame.recorded:
            return frame.seq / (self.fps or DEFAULT_FPS)
        now_s = time.monotonic()
        if self._started_s is None:
            self._started_s = now_s
        return now_s - self._started_s

    def _break_down(self, frame: Frame, now_s: float) -> None:
        die_s, hang_s = self._faults.die_after_s, self._faults.hang_after_s
        if die_s is not None and now_s >= die_s:
            raise CaptureError(f"{self.camera}: broke after {frame.seq} frames, as die_after asks")
        if hang_s is not None and now_s >= hang_s:
            threading.Event().wait()

    def _spoil(self, frame: Frame, now_s: float, chance: random.Random) -> Frame:
        faults = self._faults
        if chance.random() < faults.corrupt:
            if chance.random() < 0.5:
                raise FrameError(f"{self.camera}: frame {frame.seq} does not decode")
            return dataclasses.replace(frame, image=_with_noise(frame.image, chance))
        every_s = faults.freeze_every_s
        if every_s is None:
            return frame
        if self._still is None or now_s < every_s or now_s % every_s >= faults.freeze_for_s:
            self._still = frame
        return dataclasses.replace(frame, image=self._still.image, planes=self._still.planes)


def _with_noise(image: Image, chance: random.Random) -> Image:
    """The image with noise over some of its rows, like a stream that lost a slice."""
    height = image.shape[0]
    first = chance.randrange(height)
    rows = min(height - first, max(1, height // 4))
    noisy: Image = image.copy()
    band = noisy[first : first + rows]
    band[:] = np.frombuffer(chance.randbytes(band.size), np.uint8).reshape(band.shape)
    return noisy
