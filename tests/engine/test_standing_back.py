"""Threads that let the steps go first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from takeoff.engine.standing_back import NICE

ASKED = """
import os, threading
from takeoff.engine.standing_back import stand_back
os.setpriority(os.PRIO_PROCESS, 0, {nice})
said = []
def work():
    stand_back()
    said.append(os.getpriority(os.PRIO_PROCESS, 0))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(said[0], os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
@pytest.mark.parametrize(("nice", "thread"), [(0, NICE), (15, 15)])
def test_a_thread_stands_back_and_never_comes_forward(nice: int, thread: int) -> None:
    """To come forward is not allowed: a server that was started with `nice -n 15` lost its engines so."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED.format(nice=nice)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [str(thread), str(nice)]
