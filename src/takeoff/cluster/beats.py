"""What several engines say of themselves, as if they were one that never begins again."""

from __future__ import annotations

from collections import Counter

from takeoff.ipc.messages import Heartbeat

MOST_GONE = 256  # replicas that may come back: one that was only late must not be summed twice

_NOW = frozenset({"cache_bytes", "disk_bytes", "gpu_layers"})  # of counters, those that tell a state


class Beats:
    """Sums over replicas that come and go, and whose engines start anew."""

    def __init__(self) -> None:
        self._last: dict[str, Heartbeat] = {}  # also of those that are gone, until there are too many
        self._present: set[str] = set()
        self._steps = 0
        self._sums: Counter[str] = Counter()

    def take(self, replica_id: str, beat: Heartbeat) -> None:
        last = self._last.get(replica_id)
        if last is not None and beat.steps < last.steps:
            last = None  # another engine, which began at zero
        self._steps += beat.steps - (0 if last is None else last.steps)
        for name, value in beat.counters.items():
            if name not in _NOW:
                before = 0.0 if last is None else last.counters.get(name, 0.0)
                self._sums[name] += max(value - before, 0.0)  # type: ignore[assignment]  # floats are summed
        self._last.pop(replica_id, None)
        self._last[replica_id] = beat
        self._present.add(replica_id)

    def __contains__(self, replica_id: str) -> bool:
        """Whether it has said anything before."""
        return replica_id in self._last

    def keep(self, replica_ids: set[str]) -> None:
        """The others are gone; what they have done stays done."""
        self._present &= replica_ids
        gone = [name for name in self._last if name not in replica_ids]
        for name in gone[: max(len(gone) - MOST_GONE, 0)]:
            del self._last[name]

    def total(self) -> Heartbeat:
        beats = [beat for name, beat in self._last.items() if name in self._present]
        states = {name: sum(beat.counters.get(name, 0.0) for beat in beats) for name in _NOW}
        return Heartbeat(
            steps=self._steps,
            step_running_s=max((beat.step_running_s for beat in beats), default=0.0),
            running=sum(beat.running for beat in beats),
            waiting=sum(beat.waiting for beat in beats),
            counters={**self._sums, **states},
        )
