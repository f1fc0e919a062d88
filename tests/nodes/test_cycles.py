"""A node that is configured and cleaned up many times stays as large as after the first times."""

from __future__ import annotations

import psutil
from lifecycle_msgs.msg import Transition

CYCLES = 12
SETTLED_AFTER = 4
GROWTH_MB = 30.0  # of 9 cycles; one model alone takes 60 MB


def test_cleanup_frees_the_models(start_node, change, wait_until):
    node = start_node("vision_node", {"source": "scene:", "autostart": False})
    process = psutil.Process(node.pid)
    sizes_mb, threads = [], []
    for cycle in range(CYCLES):
        assert change("vision_node", Transition.TRANSITION_CONFIGURE)
        assert change("vision_node", Transition.TRANSITION_ACTIVATE)
        wait_until(lambda: node.count("first image of") > cycle, "the first image")  # noqa: B023
        assert change("vision_node", Transition.TRANSITION_DEACTIVATE)
        assert change("vision_node", Transition.TRANSITION_CLEANUP)
        sizes_mb.append(process.memory_info().rss / 2**20)
        threads.append(process.num_threads())
    assert sizes_mb[-1] - sizes_mb[SETTLED_AFTER - 1] < GROWTH_MB, sizes_mb
    assert threads[-1] <= threads[SETTLED_AFTER - 1] + 1, threads
