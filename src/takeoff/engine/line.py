"""Who waits for slots of one class: each tenant's sequences in order of arrival."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from itertools import chain

from takeoff.engine.sequence import Sequence


class Line:
    """Finding the first of each tenant costs nothing for those behind it."""

    def __init__(self) -> None:
        self._of: dict[str, list[Sequence]] = {}  # by tenant; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __bool__(self) -> bool:
        return bool(self._of)

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._of.values())

    @property
    def heads(self) -> list[Sequence]:
        """Of each tenant the one that came first."""
        return [seqs[0] for seqs in self._of.values()]

    def add(self, seq: Sequence) -> None:
        insort(self._of.setdefault(seq.tenant, []), seq, key=arrival)

    def remove(self, seq: Sequence) -> None:
        seqs = self._of[seq.tenant]
        seqs.remove(seq)
        if not seqs:
            del self._of[seq.tenant]


def arrival(seq: Sequence) -> float:
    return seq.arrived_at
