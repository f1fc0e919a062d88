"""The far end of a bad link: `receiver.py ADDRESS` prints one JSON object for each frame.

It prints the number, the age and the error of the age, and at the end,
when its standard input ends, the counts.
"""

from __future__ import annotations

import json
import select
import sys
import time

from pipeline.transport import Security, Subscriber


def say(**fields):
    print(json.dumps(fields), flush=True)  # noqa: T201 - this is how it answers


def main(address):
    with Subscriber(address, security=Security(insecure=True)) as subscriber:
        say(ready=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            received = subscriber.receive(0.05)
            if received is None:
                continue
            clock, age_ns = received.clock, received.age_ns()
            say(
                at_s=time.monotonic(),
                seq=received.item.seq,
                true_age_ms=(time.time_ns() - received.item.stamp_ns) / 1e6,
                age_ms=None if age_ns is None else age_ns / 1e6,
                offset_ms=None if clock is None else clock.offset_ns / 1e6,
                error_ms=None if clock is None else clock.error_ns / 1e6,
            )
        say(counts={topic: dict(count) for topic, count in subscriber.counts.items()})


if __name__ == "__main__":
    main(sys.argv[1])
