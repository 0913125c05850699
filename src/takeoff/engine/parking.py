"""Sequences without a slot whose state is kept: because they outgrew it, or because it is another's turn.

A move is by snapshot and changes no bit. Who has outgrown its slot moves to a longer one. Who finds none
free stays where it is, as long as nobody wants that place; then its snapshot is put aside, within a budget
of bytes. So is that of one who gives way to another tenant. Over the budget it stays after all, and those who
want its place wait with it.
"""

from __future__ import annotations

import numpy as np

from takeoff.engine.counters import Counters
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.scheduler import Scheduler
from takeoff.engine.sequence import Sequence


class Parking:
    """Carries out what the scheduler decides about sequences between their slots."""

    def __init__(self, scheduler: Scheduler, kernels: Kernels, counters: Counters, max_bytes: int) -> None:
        """`max_bytes`: of snapshots that are put aside, together."""
        self._scheduler = scheduler
        self._kernels = kernels
        self._counters = counters
        self._max_bytes = max_bytes

    def bring(self, seq: Sequence, left: int | None) -> bool:
        """Bring what is computed of `seq` into the slot that it was given; False: nothing is.

        `left` is the slot that it had up to now, None if it had none.
        """
        assert seq.slot is not None
        if left is not None:
            with self._counters.timed("grow", tokens=seq.num_computed_tokens):
                self._kernels.restore(seq.slot, self._snapshot(left))
                self._kernels.clear(left)
            return True
        if seq.parked is not None:
            with self._counters.timed("unpark", tokens=seq.num_computed_tokens):
                self._kernels.restore(seq.slot, seq.parked)
            seq.parked = None
            return True
        return False

    def give_way(self) -> bool:
        """Put one aside whose tenant has more than its share while another waits; whether there was one."""
        seq = self._scheduler.next_to_give_way()
        return seq is not None and self._try_park(seq)

    def make_room(self) -> None:
        """Put those aside who have outgrown their slots while others wait for these."""
        for seq in self._scheduler.outgrown():
            if self._scheduler.is_wanted(seq.slot_class) and not self._try_park(seq):
                break
        self._counters.set("parked_bytes", self._used_bytes)

    def _try_park(self, seq: Sequence) -> bool:
        """Put `seq` aside, if the budget has room for it."""
        slot = seq.slot
        assert slot is not None
        if self._used_bytes + self._kernels.snapshot_bytes(slot) > self._max_bytes:
            return False
        with self._counters.timed("park", tokens=seq.num_computed_tokens):
            seq.parked = self._snapshot(slot)
            self._scheduler.park(seq)
            self._kernels.clear(slot)
        return True

    @property
    def _used_bytes(self) -> int:
        return sum(seq.parked.nbytes for seq in self._scheduler.waiting if seq.parked is not None)

    def _snapshot(self, slot: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        state = np.empty(self._kernels.snapshot_bytes(slot), np.uint8)
        return state[: self._kernels.save(slot, state)]
