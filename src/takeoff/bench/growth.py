"""Whether a server's processes grow: memory, descriptors and threads of each, over its life."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from takeoff.bench.slope import Sample, Slope, slope_of


class Holding(NamedTuple):
    """What one process holds at one moment."""

    role: str
    pid: int
    memory_mb: float  # its own: anonymous pages, in memory or swapped out
    shared_mb: float  # its share of the pages of shared memory that it has touched
    descriptors: int
    threads: int


Look = tuple[float, Sequence[Holding]]  # when (seconds, or requests so far), and all processes then


@dataclass(frozen=True, slots=True)
class Growth:
    """Of `what` in the processes of `role`; no slope: they did not live long enough to tell."""

    role: str
    what: str
    slope: Slope | None
    bound: float  # a slope below it counts as none

    @property
    def is_leak(self) -> bool:
        return self.slope is not None and not self.slope.is_flat(self.bound)


def growths(
    looks: Sequence[Look], bounds: Mapping[str, float], *, settle: float, block: float
) -> list[Growth]:
    """Of every role, whatever is named in `bounds`, which are for each unit of the looks' places.

    Processes that follow each other, or work side by side, share one slope and have levels of their own. What
    a process takes within `settle` of its first look is its start. `block`: see `slope_of`.
    """
    found = []
    for role in sorted({held.role for _, present in looks for held in present}):
        for what, bound in bounds.items():
            series = _series(looks, role, what, settle)
            try:
                slope = slope_of(series, block)
            except ValueError:
                slope = None
            found.append(Growth(role, what, slope, bound))
    return found


def _series(looks: Sequence[Look], role: str, what: str, settle: float) -> list[list[Sample]]:
    """One of each process."""
    began: dict[int, float] = {}
    series: defaultdict[int, list[Sample]] = defaultdict(list)
    for place, present in looks:
        for held in present:
            if held.role == role and place - began.setdefault(held.pid, place) >= settle:
                series[held.pid].append((place, float(getattr(held, what))))
    return list(series.values())
