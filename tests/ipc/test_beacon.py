"""What a process wrote into its beacon is there when it is gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from takeoff.ipc.beacon import MAX_REQUESTS, Beacon, Lane, make_beacon_file

DYING = """
import os, sys
from takeoff.ipc.beacon import Beacon, Lane
beacon = Beacon(int(sys.argv[1]))
beacon.beat()
with beacon.call([1], 0.5):
    pass
with beacon.at_work([7], Lane.IMAGES), beacon.call([3, 2**40], 0.25):
    os.abort()
"""


def test_the_call_that_killed_a_process_is_known_after_its_death() -> None:
    with make_beacon_file() as file:
        beacon = Beacon(file.fileno())
        command = [sys.executable, "-c", DYING, str(file.fileno())]
        subprocess.run(command, pass_fds=[file.fileno()], check=False, env=os.environ)
        assert beacon.in_work == {3, 2**40, 7}
        assert beacon.num_beats == 1
        running = beacon.running_call
        assert running is not None
        assert (running.number, running.expected_s) == (2, 0.25)
        assert beacon.num_calls == 2
        beacon.clear()
        assert (beacon.in_work, beacon.num_beats, beacon.running_call) == (frozenset(), 0, None)


def test_between_calls_nobody_is_in_work() -> None:
    beacon = Beacon()
    with beacon.call([1, 2], 0.1):
        assert beacon.in_work == {1, 2}
    assert beacon.in_work == frozenset()
    assert beacon.running_call is None


def test_for_whom_a_thread_worked_when_it_raised_stays_told_for_the_process_ends_of_it() -> None:
    beacon = Beacon()
    with pytest.raises(RuntimeError), beacon.call([1, 2], 0.1):
        raise RuntimeError
    with pytest.raises(RuntimeError), beacon.at_work([7], Lane.COMPILE):
        raise RuntimeError
    assert beacon.in_work == {1, 2, 7}


def test_more_requests_than_there_is_room_for_are_cut_not_written_elsewhere() -> None:
    beacon = Beacon()
    with beacon.at_work(range(1, MAX_REQUESTS + 10), Lane.STEP):
        assert beacon.in_work == set(range(1, MAX_REQUESTS + 1))
