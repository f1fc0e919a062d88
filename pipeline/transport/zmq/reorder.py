"""Puts the results of several detectors that share frames back in order."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.types import Header, Result

HOLD_S = 0.5
"""How long a result waits for those before it; a slower detector is regarded as gone."""

LEAD_S = 0.25
"""How much sooner after its frame a result may come than the first of its numbering."""

RESTART_S = 2.0
"""After a silence of this length, results with lower numbers are those of a restarted camera."""

MAX_GAP = 1000
"""Frames without a result; a larger step in the numbers is a restart."""

NEAR_NS = 10_000_000_000
"""Of a sender that is new, only results up to this much older are late; others restart it."""

MAX_CAMERAS = 64
MAX_NUMBERINGS = 8
MAX_WAITING = 256
MAX_SENDERS = 256


class _Waiting(NamedTuple):
    """A result that waits, in the order of its number and then of its arrival."""

    seq: int
    arrival: int
    came_s: float
    sender: int
    result: Result


@dataclass(slots=True)
class _Numbering:
    """Results of one camera whose numbers and times belong together.

    A restart of the camera begins another one, and so does a sender whose numbers or times cannot
    belong to those of the others. So a sender that makes them up hides no results but its own.

    `first` is the result that began it. `newest` has for each sender its latest number and when it
    came. A sender's own results come in order, so a number that every sender has passed cannot come
    any more. `given` is the latest result that was returned, which came at `came_s`.
    """

    begun_s: float
    first: Header
    waiting: list[_Waiting] = field(default_factory=list)
    newest: dict[int, tuple[int, float]] = field(default_factory=dict)
    given: Header | None = None
    came_s: float = 0.0
    given_s: float = 0.0

    def fits(self, header: Header, now_s: float, *, is_own: bool) -> bool:
        """Whether a result belongs to those before it.

        Its own senders may set the clock back.
        """
        before = self.given or self.first
        ahead, ahead_ns = header.seq - before.seq, header.stamp_ns - before.stamp_ns
        lead_s = (_start_ns(header) - _start_ns(self.first)) / 1e9 - (now_s - self.begun_s)
        if abs(ahead) > MAX_GAP or lead_s > LEAD_S or (self.given is not None and ahead <= 0):
            return False
        return is_own or ahead * ahead_ns >= 0

    def is_late(self, sender: int, header: Header, now_s: float, hold_s: float) -> bool:
        """Whether a result comes after a later one was returned that had waited for it.

        Without senders, the camera has restarted, and all up to its last result are late.
        """
        given = self.given
        if given is None or now_s - self.given_s >= RESTART_S or header.stamp_ns > given.stamp_ns:
            return False
        if sender in self.newest:
            newest_seq, heard_s = self.newest[sender]
            is_same = (header.seq, header.stamp_ns) == (given.seq, given.stamp_ns)
            is_backwards = header.seq <= newest_seq and now_s - heard_s < RESTART_S
            has_waited = now_s - self.came_s >= hold_s
            return is_same or (header.seq <= given.seq and (is_backwards or has_waited))
        is_near = abs(header.seq - given.seq) <= MAX_GAP
        is_recent = given.stamp_ns - header.stamp_ns <= NEAR_NS
        return is_near and is_recent and (header.seq <= given.seq or not self.newest)

    def is_due(self, now_s: float, hold_s: float) -> bool:
        """Whether the first result that waits need not wait any longer."""
        first = self.waiting[0]
        given_seq = self.given.seq if self.given is not None else -1
        if first.seq == given_seq + 1 or now_s - first.came_s > hold_s:
            return True
        for sender, (_, heard_s) in list(self.newest.items()):
            if now_s - heard_s > 2 * hold_s:
                del self.newest[sender]
        return all(newest_seq >= first.seq for newest_seq, _ in self.newest.values())

    def note(self, sender: int, seq: int, now_s: float) -> None:
        """Note the latest number of a sender."""
        if sender not in self.newest and len(self.newest) >= MAX_SENDERS:
            del self.newest[next(iter(self.newest))]
        self.newest[sender] = seq, now_s


class ResultOrder:
    """Returns the results of each camera by `seq`.

    A result that comes after a later one was returned is dropped, as is a second one on the same
    frame. `late` counts them. Results that wait take at most `max_bytes`.
    """

    def __init__(self, hold_s: float = HOLD_S, max_bytes: int = 1 << 30) -> None:
        self._hold_s = hold_s
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._cameras: dict[str, list[_Numbering]] = {}
        self._last: dict[tuple[str, int], tuple[Header, float]] = {}
        self._arrivals = itertools.count()
        self.late = 0

    def put(self, sender: int, result: Result) -> None:
        """Add a result of a sender, a number that no other peer can claim."""
        header, now_s = result.header, time.monotonic()
        if header.camera not in self._cameras and len(self._cameras) >= MAX_CAMERAS:
            for former in self._cameras.pop(next(iter(self._cameras))):
                self._drop(former.waiting)
        numberings = self._cameras.setdefault(header.camera, [])
        own = next((one for one in numberings if sender in one.newest), None)
        numbering = self._place(sender, header, own, numberings, now_s)
        if numbering is None:
            self.late += 1
            return
        if own is not None and own is not numbering:
            self._move(sender, own, numbering, header)
        numbering.note(sender, header.seq, now_s)
        self._nbytes += nbytes_of(result)
        arrived = _Waiting(header.seq, next(self._arrivals), now_s, sender, result)
        heapq.heappush(numbering.waiting, arrived)

    def get(self) -> Result | None:
        """The next result that is due, None if all have to wait."""
        now_s = time.monotonic()
        for numberings in self._cameras.values():
            for numbering in numberings:
                while numbering.waiting and self._is_due(numbering, now_s):
                    first = heapq.heappop(numbering.waiting)
                    header, given = first.result.header, numbering.given
                    self._nbytes -= nbytes_of(first.result)
                    is_repeated = given is not None and header == given  # by two detectors
                    if is_repeated or not self._is_forward(first.sender, header, now_s):
                        self.late += 1
                        continue
                    if given is None or header.seq >= given.seq:
                        numbering.given, numbering.came_s = header, first.came_s
                    numbering.given_s = now_s
                    return first.result
        return None

    def _is_forward(self, sender: int, header: Header, now_s: float) -> bool:
        """Whether a result is later than the one before of its sender, by number or by time.

        Results of a sender may wait in two numberings, if its numbers and times contradict.
        """
        key = header.camera, sender
        if key in self._last:
            before, given_s = self._last[key]
            is_new = header.seq > before.seq or header.stamp_ns > before.stamp_ns
            if not is_new and now_s - given_s < RESTART_S:
                return False
        elif len(self._last) >= MAX_CAMERAS * MAX_SENDERS:
            del self._last[next(iter(self._last))]
        self._last[key] = header, now_s
        return True

    @property
    def waiting(self) -> int:
        """How many results wait."""
        cameras = tuple(self._cameras.values())
        return sum(len(numbering.waiting) for camera in cameras for numbering in tuple(camera))

    def _place(
        self,
        sender: int,
        header: Header,
        own: _Numbering | None,
        numberings: list[_Numbering],
        now_s: float,
    ) -> _Numbering | None:
        """The numbering that a result belongs to, perhaps a new one; None if it is late.

        A sender stays in its own as long as its results fit. After a while it joins an older one
        that fits, so that senders which were apart come together again.
        """
        if own is not None and own.is_late(sender, header, now_s, self._hold_s):
            return None
        fitting = [
            one for one in numberings if one.newest and one.fits(header, now_s, is_own=one is own)
        ]
        if own in fitting and (own is fitting[0] or now_s - own.begun_s < RESTART_S):
            return own
        if fitting:
            return fitting[0]
        for one in numberings if own is None else ():
            if one.is_late(sender, header, now_s, self._hold_s):
                if one.newest:
                    one.note(sender, header.seq, now_s)
                return None
        return self._begin(numberings, header, now_s)

    def _begin(self, numberings: list[_Numbering], header: Header, now_s: float) -> _Numbering:
        """A new numbering, in place of those that nobody uses or of the least recent."""
        ended = [one for one in numberings if not one.waiting and now_s - one.given_s > RESTART_S]
        if not ended and len(numberings) >= MAX_NUMBERINGS:
            ended = [min(numberings, key=lambda one: (bool(one.newest), one.given_s))]
        for one in ended:
            self._drop(one.waiting)
            numberings.remove(one)
        numberings.append(_Numbering(now_s, header))
        return numberings[-1]

    def _move(self, sender: int, own: _Numbering, to: _Numbering, header: Header) -> None:
        """Move a sender and what waits of it; results from before a restart are late."""
        del own.newest[sender]
        moved = [one for one in own.waiting if one.sender == sender]
        if not moved:
            return
        own.waiting = [one for one in own.waiting if one.sender != sender]
        heapq.heapify(own.waiting)
        before = [one for one in moved if one.seq < header.seq]
        self._drop([one for one in moved if one.seq >= header.seq])
        for one in before:
            heapq.heappush(to.waiting, one)

    def _drop(self, waiting: list[_Waiting]) -> None:
        self.late += len(waiting)
        self._nbytes -= sum(nbytes_of(one.result) for one in waiting)

    def _is_due(self, numbering: _Numbering, now_s: float) -> bool:
        is_full = len(numbering.waiting) > MAX_WAITING or self._nbytes > self._max_bytes
        return is_full or numbering.is_due(now_s, self._hold_s)


def nbytes_of(result: Result) -> int:
    """The memory that the arrays of a result take, without its frame."""
    found, named = result.detections, result.classifications
    nbytes = found.boxes.nbytes + found.scores.nbytes + found.class_ids.nbytes
    return nbytes + (named.ids.nbytes + named.scores.nbytes if named is not None else 0)


def _start_ns(header: Header) -> int:
    """The time from which a result's age counts."""
    return header.read_ns if header.recorded else header.stamp_ns
