"""Whether an engine lives and gets on, by its beacon and by what the system says of its process.

Counts looks, not seconds: when this very process was stopped for a while, one look passes, and the engine's
news of that time is still to be read.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from takeoff.ipc.beacon import Beacon

LOOK_S = 0.2
STOPPED_S = 1.0  # that a process is stopped by a signal before it is given up; a debugger is another matter
SILENCE_S = 5.0  # a live engine beats ten times a second, but a starved machine may hold it up
LOAD_SILENCE_S = 300.0  # a huge model from a slow disk may go this long between two signs of progress
MIN_WEDGED_S = 2.0
WEDGED_TIMES = 8.0  # so many times longer than expected a call may take


class Verdict(NamedTuple):
    """Why an engine is to be killed."""

    error: str
    is_crash: bool  # perhaps because of what it computes; False: somebody has stopped it


class Pulse:
    """Of one engine process. `look` is called every LOOK_S seconds."""

    def __init__(self, beacon: Beacon, process: Path) -> None:
        """`process` is its folder in /proc; where there is none, nothing is known beside the beacon."""
        self._beacon = beacon
        self._process = process
        self._beats = beacon.num_beats
        self._silent_looks = 0
        self._call = 0
        self._call_looks = 0  # that have seen it
        self._page_reads = 0
        self._delays: dict[str, int] = {}  # of each thread when the call was first seen, in nanoseconds

    def heard(self) -> None:
        """A message has come."""
        self._silent_looks = 0

    def look(self, *, is_loaded: bool) -> Verdict | None:
        """What to say of it, if it is to be killed."""
        beats = self._beacon.num_beats
        self._silent_looks = 0 if beats != self._beats else self._silent_looks + 1
        self._beats = beats
        silent_s = self._silent_looks * LOOK_S
        if silent_s > STOPPED_S and self._status()[0] == "T":
            return Verdict(f"the engine was stopped by a signal for {STOPPED_S:g} s and was killed", False)
        limit_s = SILENCE_S if is_loaded else LOAD_SILENCE_S
        if silent_s > limit_s:
            return Verdict(f"the engine gave no sign of life for {limit_s:g} s and was killed", True)
        return self._wedged()

    def _wedged(self) -> Verdict | None:
        call = self._beacon.running_call
        if call is None:
            return None
        if call.number != self._call:
            self._call = call.number
            self._begin(self._status()[1])
            return None
        self._call_looks += 1
        took_s = self._call_looks * LOOK_S
        limit_s = max(MIN_WEDGED_S, WEDGED_TIMES * call.expected_s)
        if not math.isfinite(limit_s) or took_s <= limit_s or took_s - self._starved_s() <= limit_s:
            return None
        _, page_reads = self._status()
        if page_reads != self._page_reads:  # it reads its weights from disk again: slow, but it gets on
            self._begin(page_reads)
            return None
        took = f"took more than {limit_s:.1f} s, {call.expected_s:.2g} s were expected"
        return Verdict(f"a call of the engine {took}, and it was killed", True)

    def _begin(self, page_reads: int) -> None:
        """Count anew how long the call takes."""
        self._call_looks, self._page_reads, self._delays = 0, page_reads, self._run_delays()

    def _starved_s(self) -> float:
        """How long the call has waited for other programs to leave a core to it: its most delayed thread."""
        delays = self._run_delays().items()
        return max((delay - self._delays.get(thread, 0) for thread, delay in delays), default=0) / 1e9

    def _run_delays(self) -> dict[str, int]:
        """Nanoseconds that each thread was ready to run and did not, in its life.

        Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat, second number.
        """
        delays = {}
        with suppress(OSError):
            for task in (self._process / "task").iterdir():
                with suppress(OSError):  # it has ended
                    delays[task.name] = int((task / "schedstat").read_text().split()[1])
        return delays

    def _status(self) -> tuple[str, int]:
        """The state of the process, and how often it had to wait for a page to be read from disk.

        Source: proc(5), /proc/pid/stat, fields 3 and 12.
        """
        try:
            fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "", 0
        return fields[0], int(fields[9])
