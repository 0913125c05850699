"""Runs targets, each in a process that may crash or hang, and counts what came of their cases.

A worker is ended when a case takes longer than its time, and followed by another one that goes on behind it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.fuzzing.desk import NO_CASE, Desk
from bench.fuzzing.worker import DESK

ROOT = Path(__file__).parents[2]
LOOK_S = 0.05
STOP_S = 20.0
START_LIMIT_S = 120.0  # for imports, a vocabulary or a server
MAX_CRASHES = 20  # of one target: then it is given up


@dataclass(frozen=True, slots=True)
class Plan:
    """One target: where it is, how many of a million cases it gets, and its times."""

    name: str
    spec: str  # module:function
    share: int  # of SHARES
    limit_s: float
    may_be_late: bool = False
    grace_s: float = 3.0  # beyond its limit, that a worker has to end a case by itself


@dataclass
class Row:
    """What came of one target's cases."""

    name: str
    accepted: int = 0
    rejected: int = 0
    late: int = 0
    seconds: float = 0.0
    found: dict[str, int] = field(default_factory=dict)  # sign: how often
    kept: list[Path] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.accepted + self.rejected + self.late + sum(self.found.values())


class Lane:
    """One target and the process that runs its cases, started when it is needed."""

    def __init__(self, plan: Plan, folder: Path, model: Path, seed: str, kept: Path) -> None:
        """`kept`: the folder of cases that found something."""
        self.row = Row(plan.name)
        self._plan = plan
        self._folder = folder / plan.name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._seed = seed
        self._kept = kept
        self._next = 0
        self._num_crashes = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._desk = Desk(self._folder / DESK)
        self._counted = self._desk.read()

    def run(self, count: int, until: float) -> None:
        """So many cases more, or as many as there is time for on the monotonic clock."""
        started, goal = time.monotonic(), self._next + count
        while self._next < goal and time.monotonic() < until and self._num_crashes < MAX_CRASHES:
            self._start()
            self._order(f"run {self._next} {goal - self._next} {until}")
            done = self._attend()
            if done is None:
                self._bury()
            else:
                self._next = goal if done == goal - self._next else self._next + done
                if self._next < goal:
                    break
            self._count()
        self.row.seconds += time.monotonic() - started

    def replay(self, case: Path) -> None:
        """One case that was kept."""
        self._start()
        self._order(f"replay {case.resolve()}")
        if self._attend() is None:
            self._bury()
        self._count()

    def stop(self) -> None:
        """End the worker. Idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        _close(process)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listening.join()

    def _start(self) -> None:
        if self._process is not None:
            return
        command = [sys.executable, "-m", "bench.fuzzing.worker", self._plan.spec]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self._folder), str(self._model), self._seed],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._lines = queue.Queue()
        self._listening = threading.Thread(target=_copied, args=(self._process, self._lines), daemon=True)
        self._listening.start()
        is_ready = self._said(time.monotonic() + START_LIMIT_S) is not None
        self._counted = self._desk.read()
        if not is_ready:
            self._process.kill()
            raise SystemExit(f"{self._plan.name} does not start:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return (self._folder / "log.txt").read_text("utf-8", "replace")[-2_000:]

    def _order(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; whoever listens hears it

    def _attend(self) -> int | None:
        """Listen until the order is done: how many cases; None: the worker is dead, or hangs."""
        while True:
            said = self._said(None)
            if said is None:
                return None
            if "done" in said:
                return int(said["done"])
            self._keep(said["found"], bytes.fromhex(said["case"]), bytes.fromhex(said["small"]))

    def _said(self, until: float | None) -> dict[str, Any] | None:
        """The worker's next line; None: it is dead, or its time is over."""
        while True:
            try:
                line = self._lines.get(timeout=LOOK_S)
            except queue.Empty:
                if until is None and self._is_hanging():
                    return None
                if until is not None and time.monotonic() > until:
                    return None
                continue
            if line is None:
                return None
            return dict(json.loads(line))

    def _is_hanging(self) -> bool:
        told = self._desk.read()
        return (
            told.number != NO_CASE and time.monotonic() - told.since > self._plan.limit_s + self._plan.grace_s
        )

    def _bury(self) -> None:
        """The worker died of the case at hand, or is killed at it: note which, and go on behind it."""
        process, self._process = self._process, None
        assert process is not None
        is_alive = process.poll() is None
        is_hanging = is_alive and self._is_hanging()
        if is_alive:
            process.kill()
        code = process.wait()
        _close(process)
        self._listening.join()
        told = self._desk.read(with_case=True)
        if told.number == NO_CASE:
            if is_alive:
                return  # its case ended at the last moment: it was killed in vain
            raise SystemExit(f"{self._plan.name} ended with {code} outside of a case:\n{self._log_tail()}")
        if is_hanging and self._plan.may_be_late:
            self.row.late += 1
        else:
            self._num_crashes += 1
            kind = "hang" if is_hanging else "crash"
            what = "no end within its time, in native code" if is_hanging else f"the process died: {code}"
            self._keep({"kind": kind, "sign": f"{kind} {code}", "message": what}, told.case, b"")
        if told.number >= 0:
            self._next = told.number + 1

    def _count(self) -> None:
        """Take over what this worker has counted since it was asked last."""
        told, before = self._desk.read(), self._counted
        self.row.accepted += told.accepted - before.accepted
        self.row.rejected += told.rejected - before.rejected
        self.row.late += told.late - before.late
        self._counted = told

    def _keep(self, found: dict[str, str], case: bytes, small: bytes) -> None:
        """Count what was found, and keep its case with what it broke."""
        sign = found["sign"]
        self.row.found[sign] = self.row.found.get(sign, 0) + 1
        if not case and found["kind"] not in ("crash", "hang"):
            return
        self._kept.mkdir(parents=True, exist_ok=True)
        name = f"{self._plan.name}-{found['kind']}-{hashlib.sha256(case).hexdigest()[:10]}"
        for suffix, data in (("", case), (".small", small)):
            if data or not suffix:
                path = self._kept / f"{name}{suffix}.case"
                path.write_bytes(data)
                self.row.kept.append(path)
        (self._kept / f"{name}.txt").write_text(f"{self._plan.name}\n{sign}\n{found['message']}\n")


def _close(process: subprocess.Popen[str]) -> None:
    """No more orders."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _copied(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def table(rows: list[Row]) -> Iterator[str]:
    """The figures in Markdown."""
    yield "| target | cases | rejected | accepted | late | found | cases/s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for row in [*rows, total(rows)]:
        rate = row.cases / row.seconds if row.seconds else 0.0
        figures = (row.cases, row.rejected, row.accepted, row.late, sum(row.found.values()))
        yield f"| {row.name} | {' | '.join(f'{figure:,}' for figure in figures)} | {rate:,.0f} |"


def total(rows: list[Row]) -> Row:
    """All together; its seconds are those of all workers."""
    whole = Row("all")
    for row in rows:
        whole.accepted += row.accepted
        whole.rejected += row.rejected
        whole.late += row.late
        whole.seconds += row.seconds
        for sign, count in row.found.items():
            whole.found[sign] = whole.found.get(sign, 0) + count
    return whole
