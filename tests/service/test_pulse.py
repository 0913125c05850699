"""When an engine is given up, by looks at its beacon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from takeoff.ipc.beacon import Beacon
from takeoff.service.pulse import LOOK_S, Pulse, Verdict


def look_for(pulse: Pulse, beacon: Beacon, seconds: float, *, beating: bool = True) -> Verdict | None:
    """The first verdict within so many seconds of looks."""
    for _ in range(round(seconds / LOOK_S)):
        if beating:
            beacon.beat()
        verdict = pulse.look(is_loaded=True)
        if verdict is not None:
            return verdict
    return None


def test_an_engine_that_beats_lives_and_one_that_does_not_is_given_five_seconds() -> None:
    beacon = Beacon()
    pulse = Pulse(beacon, Path("/proc/self"))
    assert look_for(pulse, beacon, 60) is None
    assert look_for(pulse, beacon, 5, beating=False) is None
    pulse.heard()
    assert look_for(pulse, beacon, 5, beating=False) is None
    verdict = look_for(pulse, beacon, 1, beating=False)
    assert verdict == ("the engine gave no sign of life for 5 s and was killed", True)


def test_a_call_may_take_two_seconds_or_eight_times_what_was_expected() -> None:
    beacon = Beacon()
    pulse = Pulse(beacon, Path("/proc/self"))
    for expected_s, limit_s in ((0.01, 2.0), (0.9, 7.2), (5.0, 40.0)):
        with beacon.call([1], expected_s):
            assert look_for(pulse, beacon, limit_s) is None
            verdict = look_for(pulse, beacon, 3 * LOOK_S)
        assert verdict is not None
        assert verdict.is_crash
        assert f"took more than {limit_s:.1f} s, {expected_s:.2g} s were expected" in verdict.error
        assert look_for(pulse, beacon, 60) is None, "between calls nothing can be late"


def test_calls_of_any_number_that_each_end_in_time_are_no_hang() -> None:
    beacon = Beacon()
    pulse = Pulse(beacon, Path("/proc/self"))
    for _ in range(100):
        with beacon.call([1], 0.01):
            assert look_for(pulse, beacon, 1.8) is None


def test_a_call_that_waits_for_its_weights_to_be_read_from_disk_is_slow_and_no_hang(tmp_path: Path) -> None:
    beacon, stat = Beacon(), tmp_path / "stat"
    pulse = Pulse(beacon, tmp_path)
    with beacon.call([1], 0.01):
        for page_reads in range(100, 150):
            stat.write_text(f"7 (python (3)) D 1 7 7 0 -1 4194560 5000 0 {page_reads} 0 10 2\n")
            assert look_for(pulse, beacon, 1.0) is None
        assert look_for(pulse, beacon, 2.0) is None
        assert look_for(pulse, beacon, 3.0) is not None, "no page has come for two seconds"


def test_a_call_that_other_programs_leave_no_core_is_slow_and_no_hang(tmp_path: Path) -> None:
    beacon = Beacon()
    (thread := tmp_path / "task" / "7").mkdir(parents=True)
    pulse = Pulse(beacon, tmp_path)
    looks = 0
    with beacon.call([1], 0.01):
        verdict = None
        while verdict is None:
            (thread / "schedstat").write_text(f"250000000 {looks * 3 * LOOK_S / 4 * 1e9:.0f} 99\n")
            verdict = look_for(pulse, beacon, LOOK_S)
            looks += 1
    assert 7.8 < looks * LOOK_S < 8.6, "it had a quarter of a core: two seconds of it are over in eight"


def test_a_stopped_process_is_given_up_after_a_second_and_accuses_no_request() -> None:
    beacon = Beacon()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        pulse = Pulse(beacon, Path(f"/proc/{sleeper.pid}"))
        assert look_for(pulse, beacon, 3, beating=False) is None, "it is silent, but not stopped"
        pulse.heard()
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        assert look_for(pulse, beacon, 1, beating=False) is None
        with beacon.call([1], 0.01):
            verdict = look_for(pulse, beacon, 0.4, beating=False)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert verdict == ("the engine was stopped by a signal for 1 s and was killed", False)
