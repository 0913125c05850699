"""Which sequence lives in which slot, and how the decoding ones are kept dense.

llama.cpp cuts a call wherever the slot ids of its batch are not consecutive and rising
(`llama_kv_cache::init_batch`, `split_equal`): 8 rows on slots 0..7 cost 24 ms, on every other slot
59 ms. So decoding sequences own slots 0..n-1 whenever a call of several is made, those of one adapter side
by side, since they share a call.

Slots are of one or more classes, each a context of llama.cpp; a call is of one class, and in each the
sequences are kept dense by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from takeoff.engine.sequence import Sequence
from takeoff.ipc.messages import SlotClass


@dataclass(frozen=True, slots=True)
class Move:
    """`sequence` goes to slot `target`; `displaced`, which lives there, takes its place."""

    sequence: Sequence
    source: int
    target: int
    displaced: Sequence | None


class SlotTable:
    """The occupants of the slots of some classes, the shortest first."""

    def __init__(self, classes: Iterable[SlotClass]) -> None:
        self.classes = tuple(classes)
        self._occupants: list[Sequence | None] = []
        self._ranges: list[range] = []  # of the slots of each class
        for slots in self.classes:
            first = len(self._occupants)
            self._ranges.append(range(first, first + slots.n_slots))
            self._occupants += [None] * slots.n_slots

    def __iter__(self) -> Iterator[Sequence]:
        """Occupants in slot order."""
        return (seq for seq in self._occupants if seq is not None)

    def class_for(self, seq: Sequence) -> int:
        """The number of the shortest class whose slots hold what `seq` wants, or the longest there is."""
        wanted = seq.num_wanted_tokens
        fits = (number for number, slots in enumerate(self.classes) if slots.n_ctx >= wanted)
        return next(fits, len(self.classes) - 1)

    def has_free(self, number: int) -> bool:
        """Whether a slot of this class has no occupant."""
        return any(self._occupants[slot] is None for slot in self._ranges[number])

    def acquire(self, seq: Sequence, number: int) -> None:
        """Give `seq` the lowest free slot of a class, which has one, in place of the one that it has."""
        slot = next(slot for slot in self._ranges[number] if self._occupants[slot] is None)
        if seq.slot is not None:
            self._occupants[seq.slot] = None
        self._occupants[slot] = seq
        seq.slot, seq.slot_class, seq.slot_tokens = slot, number, self.classes[number].n_ctx

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
        moves = (self._next_move(slots) for slots in self._ranges)
        return next((move for move in moves if move is not None), None)

    def _next_move(self, slots: range) -> Move | None:
        occupants = self._occupants[slots.start : slots.stop]
        decoding = [seq for seq in occupants if seq is not None and seq.is_decoding]
        if len(decoding) == 1:  # alone in its call, wherever it is; and a long one is dear to move
            return None
        counts = Counter(seq.lora for seq in decoding)
        hole = slots.start
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
