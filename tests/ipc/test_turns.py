"""Turns between real processes: one at a time, none starved, none kept by the dead."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import IO, NamedTuple

from takeoff.ipc.turns import Turns, make_turns_file

# Takes turns of 2 ms for a second; writes of each when it was asked for, began and ended.
TAKER = """
import sys, time
from takeoff.ipc.turns import Turns
turns = Turns(int(sys.argv[1]))
end = time.monotonic() + 1.0
while time.monotonic() < end:
    asked = time.monotonic()
    with turns.taken():
        started = time.monotonic()
        time.sleep(0.002)
        print(asked, started, time.monotonic(), flush=True)
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


class Turn(NamedTuple):
    began: float
    ended: float
    asked: float
    taker: int


def test_processes_take_turns_one_at_a_time_and_nobody_is_passed_over() -> None:
    with make_turns_file() as file:
        takers = [start(TAKER, file) for _ in range(3)]
        turns = []
        for number, taker in enumerate(takers):
            output, _ = taker.communicate(timeout=30)
            for line in output.splitlines():
                asked, began, ended = map(float, line.split())
                turns.append(Turn(began, ended, asked, number))
    turns.sort()
    assert all(earlier.ended <= later.began for earlier, later in itertools.pairwise(turns))
    counts = Counter(turn.taker for turn in turns)
    assert min(counts[number] for number in range(3)) > 20
    # Not the counts: whoever the system lets sleep between two turns has fewer.
    passed_over = [most_meanwhile(turn, turns) for turn in turns]
    assert sum(most <= 1 for most in passed_over) >= 0.95 * len(turns)
    assert max(passed_over) <= 10, "without a line it is over a hundred"


def most_meanwhile(turn: Turn, turns: list[Turn]) -> int:
    """The most turns that another process began while `turn` was waited for."""
    meanwhile = Counter(other.taker for other in turns if turn.asked < other.began < turn.began)
    return max(meanwhile.values(), default=0)


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
