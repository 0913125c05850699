"""Threads beside the step loop that let the steps go first."""

from __future__ import annotations

import os
import sys

NICE = 10


def stand_back() -> None:
    """Let the steps go first on a busy machine: whoever streams waits for them, one waits for this thread.

    A process that was started still further behind stays there: it may not come forward.
    """
    if sys.platform != "linux":  # where a thread has no priority of its own
        return
    us = (os.PRIO_PROCESS, 0)  # the thread that asks
    if os.getpriority(*us) < NICE:
        os.setpriority(*us, NICE)
