"""Sums since the start of the engine, sent with every heartbeat."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Counters:
    """Named sums. `timed("decode", tokens=8)` adds to decode_calls, decode_seconds, decode_tokens."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._call_started: float | None = None

    def add(self, name: str, amount: float = 1.0) -> None:
        self._sums[name] += amount

    def set(self, name: str, value: float) -> None:
        self._sums[name] = value

    @contextmanager
    def timed(self, name: str, *, tokens: int = 0) -> Iterator[None]:
        """Count one call, its seconds and its tokens; a call that raises is not counted."""
        started = self._call_started = time.perf_counter()
        try:
            yield
        finally:
            self._call_started = None
        self._sums[f"{name}_calls"] += 1
        self._sums[f"{name}_seconds"] += time.perf_counter() - started
        self._sums[f"{name}_tokens"] += tokens

    def snapshot(self) -> dict[str, float]:
        """A copy of the sums; safe from another thread."""
        return dict(self._sums)

    @property
    def call_running_s(self) -> float:
        """How long the present call has been running; 0 between calls. Safe from another thread."""
        started = self._call_started
        return 0.0 if started is None else time.perf_counter() - started
