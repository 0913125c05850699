"""Which sequence lives in which slot, and how the decoding ones are kept dense.

llama.cpp cuts a call wherever the slot ids of its batch are not consecutive and rising
(`llama_kv_cache::init_batch`, `split_equal`): 8 rows on slots 0..7 cost 24 ms, on every other slot
59 ms. So decoding sequences own slots 0..n-1 whenever a call is made, those of one adapter side by
side, since they share a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from takeoff.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Move:
    """`sequence` goes to slot `target`; `displaced`, which lives there, takes its place."""

    sequence: Sequence
    source: int
    target: int
    displaced: Sequence | None


class SlotTable:
    """The occupants of `n_slots` slots."""

    def __init__(self, n_slots: int) -> None:
        self._occupants: list[Sequence | None] = [None] * n_slots

    def __iter__(self) -> Iterator[Sequence]:
        """Occupants in slot order."""
        return (seq for seq in self._occupants if seq is not None)

    def try_acquire(self, seq: Sequence) -> bool:
        """Give `seq` the lowest free slot, if there is one."""
        for slot, occupant in enumerate(self._occupants):
            if occupant is None:
                self._occupants[slot] = seq
                seq.slot = slot
                return True
        return False

    def release(self, seq: Sequence) -> int:
        """Take the slot from `seq`; returns it."""
        slot = seq.slot
        assert slot is not None, "a sequence without a slot has nothing to release"
        self._occupants[slot] = None
        seq.slot = None
        return slot

    def next_move(self) -> Move | None:
        """The move that fills the lowest hole among the decoding sequences; None when they are dense.

        Adapters keep the order of their lowest slots, so that few sequences have to move. A slot that
        a sequence of another adapter decodes in is a hole too.
        """
        decoding = [seq for seq in self if seq.is_decoding]
        counts = Counter(seq.lora for seq in decoding)
        hole = 0
        for lora, count in counts.items():
            for target in range(hole, hole + count):
                displaced = self._occupants[target]
                if displaced is None or not displaced.is_decoding or displaced.lora != lora:
                    highest = next(seq for seq in reversed(decoding) if seq.lora == lora)
                    assert highest.slot is not None
                    return Move(highest, highest.slot, target, displaced)
            hole += count
        return None

    def apply(self, move: Move) -> None:
        """Record that the states have been exchanged."""
        self._occupants[move.target] = move.sequence
        self._occupants[move.source] = move.displaced
        move.sequence.slot = move.target
        if move.displaced is not None:
            move.displaced.slot = move.source
