"""Turns between real processes: one at a time, none starved, none kept by the dead."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from typing import IO

from takeoff.ipc.turns import Turns, make_turns_file

# Takes turns of 2 ms for a second and writes the time of each; says "first" at the first.
TAKER = """
import sys, time
from takeoff.ipc.turns import Turns
turns = Turns(int(sys.argv[1]))
end = time.monotonic() + 1.0
while time.monotonic() < end:
    with turns.taken():
        started = time.monotonic()
        time.sleep(0.002)
        print(started, time.monotonic(), flush=True)
"""
HOLDER = """
import sys, time
from takeoff.ipc.turns import Turns
with Turns(int(sys.argv[1])).taken():
    print("held", flush=True)
    time.sleep(60)
"""


def start(script: str, file: IO[bytes]) -> subprocess.Popen[str]:
    fd = file.fileno()
    return subprocess.Popen(
        [sys.executable, "-c", script, str(fd)], pass_fds=(fd,), stdout=subprocess.PIPE, text=True
    )


def test_processes_take_turns_one_at_a_time_and_evenly() -> None:
    with make_turns_file() as file:
        takers = [start(TAKER, file) for _ in range(3)]
        spans = []
        for number, taker in enumerate(takers):
            output, _ = taker.communicate(timeout=30)
            spans += [(*map(float, line.split()), number) for line in output.splitlines()]
    spans.sort()
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
    begun = max(min(span[0] for span in spans if span[2] == number) for number in range(3))
    ended = min(max(span[0] for span in spans if span[2] == number) for number in range(3))
    counts = [sum(begun <= span[0] <= ended and span[2] == number for span in spans) for number in range(3)]
    assert min(counts) > 20
    assert min(counts) >= 0.8 * max(counts)


def test_a_killed_holder_gives_its_turn_up() -> None:
    with make_turns_file() as file:
        holder = start(HOLDER, file)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        taker = start(TAKER, file)
        assert taker.stdout is not None
        time.sleep(0.3)
        os.kill(holder.pid, signal.SIGKILL)
        assert taker.stdout.readline()
        holder.communicate(timeout=30)
        taker.communicate(timeout=30)


def test_without_a_file_there_is_nothing_to_wait_for() -> None:
    with Turns(None).taken(), Turns(None).taken():
        pass
