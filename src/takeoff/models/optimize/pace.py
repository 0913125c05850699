"""How long calls take with given settings: a child process for each loaded model, asked step by step."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psutil

from takeoff.errors import ModelError
from takeoff.sandbox.launch import command
from takeoff.sandbox.policy import Policy, child_environment, with_companions

CHILD = "takeoff.engine.timing"  # named, not imported: imports point the other way
READY = "ready"
DEPTH = 256  # tokens that a stream has behind it when its steps are timed
PREFILL_TOKENS = 256  # of the prompt that is timed
N_CTX_SLOT = 1024
STEPS = {1: 16, 8: 8, 32: 4}  # of one turn, by the number of streams
MAX_LOADED = 2  # the one that is tried, and the one that it is tried against


class Setup(msgspec.Struct, frozen=True):
    """What needs a loading of its own."""

    path: str
    n_slots: int
    batch: int
    ubatch: int
    flash_attention: bool
    kv_type: str
    threads: int  # to load with; calls name theirs


class Order(msgspec.Struct, frozen=True):
    """`streams`: so many steps of so many streams; 0: one prompt of PREFILL_TOKENS."""

    streams: int
    steps: int
    threads: int


class Turn(msgspec.Struct, frozen=True):
    """One setting's measurements of one turn, in seconds."""

    step_s: Mapping[int, float]
    prefill_token_s: float
    cpu_share: float = 1.0  # of its threads' time that the machine gave them; below 1 others computed, too


class Loaded:
    """A child that has loaded one setup. A context manager; what it raises is a ModelError."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        policy = Policy(tuple(with_companions(setup.path)))
        self._child = subprocess.Popen(
            [*command(CHILD), msgspec.json.encode(setup).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(os.environ, policy),
        )
        try:
            self._expect(READY)
        except BaseException:
            self.close()
            raise

    def seconds(self, order: Order) -> list[float]:
        """Time some calls."""
        assert self._child.stdin is not None, "a pipe"
        try:
            self._child.stdin.write(msgspec.json.encode(order).decode() + "\n")
            self._child.stdin.flush()
        except OSError as exc:
            raise self._failure() from exc
        return msgspec.json.decode(self._line(), type=list[float])

    @property
    def cpu_s(self) -> float:
        """Seconds that its threads have had of the cores."""
        try:
            times = psutil.Process(self._child.pid).cpu_times()
        except psutil.Error as exc:
            raise self._failure() from exc
        return float(times.user + times.system)

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def _expect(self, word: str) -> None:
        if self._line() != word:
            raise self._failure()

    def _line(self) -> str:
        assert self._child.stdout is not None, "a pipe"
        line = self._child.stdout.readline().strip()
        if not line:
            raise self._failure()
        return line

    def _failure(self) -> ModelError:
        code = self._child.wait()
        return ModelError(f"{Path(self.setup.path).name} could not be timed: its process ended with {code}")


class Stopwatch:
    """Times settings, in turns. Holds at most MAX_LOADED models. A context manager."""

    def __init__(self) -> None:
        self._loaded: dict[Setup, Loaded] = {}  # in order of use

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.forget()

    def forget(self) -> None:
        """End every child: what is timed next is loaded anew."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def turn(self, setup: Setup, threads: int, threads_prefill: int, streams: Sequence[int]) -> Turn:
        """Measure once: some steps of each number of streams, and a prompt."""
        loaded = self._load(setup)
        wall_s, cpu_s = time.perf_counter(), loaded.cpu_s
        step_s = {
            number: statistics.median(loaded.seconds(Order(number, STEPS[number], threads)))
            for number in streams
        }
        wall_s, cpu_s = time.perf_counter() - wall_s, loaded.cpu_s - cpu_s
        (prefill_s,) = loaded.seconds(Order(0, 1, threads_prefill))
        return Turn(step_s, prefill_s / PREFILL_TOKENS, cpu_s / (wall_s * threads))

    def _load(self, setup: Setup) -> Loaded:
        loaded = self._loaded.pop(setup, None)
        while loaded is None and len(self._loaded) >= MAX_LOADED:
            self._loaded.pop(next(iter(self._loaded))).close()
        self._loaded[setup] = loaded or Loaded(setup)
        return self._loaded[setup]
