"""The process in which cases are run: `python -m bench.fuzzing.worker SPEC FOLDER MODEL SEED`.

Takes orders on its standard input, a line each: `run FIRST COUNT UNTIL` cases by their numbers, until a
moment of the monotonic clock, or `replay FILE`. Says on its standard output what it found, a line of JSON
each, and at the end of an order how many cases it has run. The case at hand stands in memory that the driver
sees, too.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fuzzing.desk import SMALLER, Desk
from bench.fuzzing.minimise import smallest
from bench.fuzzing.target import Found, Place, Target, opened
from bench.fuzzing.watch import OWN_CHILD, Watcher

import takeoff

DESK = "desk"
PACKAGE = str(Path(takeoff.__file__).parent)
MINIMISE_S = 4.0  # for one finding
MAX_TOLD = 3  # of one sign; others are counted only


class Late(BaseException):
    """The time of the case is over. No Exception: what is run may catch those."""


class Worker:
    """Runs the cases of one target."""

    def __init__(self, target: Target, name: str, seed: str, desk: Desk, watcher: Watcher) -> None:
        self._target = target
        self._name = name
        self._seed = seed
        self._desk = desk
        self._watcher = watcher
        self._is_timed = False  # a case runs; an alarm that comes when it has ended is void
        self._num_told: dict[str, int] = {}
        signal.signal(signal.SIGALRM, self._late)

    def run(self, first: int, count: int, until: float) -> int:
        """Cases `first` to `first + count - 1`; returns how many of them in that time."""
        for number in range(first, first + count):
            if time.monotonic() > until:
                return number - first
            self._case(number, self._target.make(random.Random(f"{self._seed}:{self._name}:{number}")))
        return count

    def replay(self, case: bytes) -> int:
        self._case(0, case)
        return 1

    def _case(self, number: int, case: bytes) -> None:
        self._desk.begin(number, case)
        is_accepted, found = self._tried(case)
        if found is None:
            self._desk.end(
                accepted=is_accepted is True, rejected=is_accepted is False, late=is_accepted is None
            )
            return
        self._num_told[found["sign"]] = self._num_told.get(found["sign"], 0) + 1
        is_told = self._num_told[found["sign"]] <= MAX_TOLD
        small = self._smaller(case, found["sign"]) if is_told else b""
        self._desk.end()
        _say({"found": found, "number": number, "case": case.hex() if is_told else "", "small": small.hex()})

    def _smaller(self, case: bytes, sign: str) -> bytes:
        ends_at = time.monotonic() + MINIMISE_S

        def is_same(other: bytes) -> bool:
            self._desk.begin(SMALLER, other)  # its time begins anew
            found = self._tried(other)[1]
            return found is not None and found["sign"] == sign

        return smallest(case, is_same, lambda: time.monotonic() < ends_at)

    def _tried(self, case: bytes) -> tuple[bool | None, dict[str, str] | None]:
        """Whether the case was accepted, None: it was late; and what it broke."""
        found: dict[str, str] | None = None
        is_accepted: bool | None = None
        self._watcher.taken()
        self._is_timed = True
        signal.setitimer(signal.ITIMER_REAL, self._target.limit_s)
        try:
            try:
                is_accepted = self._target.run(case)
            finally:
                self._is_timed = False
        except Late:
            if not self._target.may_be_late:
                place = _place(traceback.extract_tb(sys.exc_info()[2]))
                found = {
                    "kind": "hang",
                    "sign": f"hang {place}",
                    "message": f"no end within its time, {place}",
                }
        except Found as exc:
            found = {"kind": "broken", "sign": exc.sign, "message": str(exc)}
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # whatever it is, a client or a file has caused it
            place = _place(traceback.extract_tb(exc.__traceback__))
            what = "".join(traceback.format_exception(exc, limit=-8))
            found = {"kind": "error", "sign": f"{type(exc).__name__} {place}", "message": what}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if seen := self._watcher.taken():
            sign = f"forbidden: {' '.join(seen[0].split()[:1])}"
            found = {"kind": "forbidden", "sign": sign, "message": "; ".join(seen[:5])}
        return is_accepted, found

    def _late(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_timed:
            raise Late


def _place(stack: traceback.StackSummary) -> str:
    """The innermost line of ours in a traceback."""
    frames = [frame for frame in stack if frame.filename != __file__]
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"


def _say(what: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _bound_memory(more: int | None) -> None:
    if more is None or sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    spec, folder, model, seed = sys.argv[1:]
    logging.disable(logging.WARNING)
    own = Path(folder, "files")
    own.mkdir(exist_ok=True)
    desk = Desk(Path(folder, DESK))
    watcher = Watcher(readable=[Path(model)], writable=[own], startable=OWN_CHILD)
    with opened(spec, Place(own, Path(model), watcher)) as target:
        worker = Worker(target, spec, seed, desk, watcher)
        _bound_memory(target.memory_bytes)
        watcher.arm(this_thread=target.watches_caller)
        desk.clear()
        _say({"ready": True})
        for line in sys.stdin:
            verb, *words = line.split(maxsplit=3)
            if verb == "run":
                done = worker.run(int(words[0]), int(words[1]), float(words[2]))
            else:
                watcher.disarm()
                case = Path(line.split(maxsplit=1)[1].rstrip("\n")).read_bytes()
                watcher.arm(this_thread=target.watches_caller)
                done = worker.replay(case)
            _say({"done": done})
        watcher.disarm()


if __name__ == "__main__":
    main()
