"""Threads beside the step loop that let the steps go first."""

from __future__ import annotations

import os
import sys

NICE = 10


def stand_back() -> None:
    """Let the steps go first on a busy machine: whoever streams waits for them, one waits for this thread."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # 0: of the thread that asks
