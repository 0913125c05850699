"""A router for comparison: each request to the next replica, whatever it has computed."""

from __future__ import annotations

from collections.abc import Sequence

from takeoff.cluster.affinity import Affinity
from takeoff.cluster.router import PrefixRouter


class InTurn(Affinity):
    """One after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def choose(self, _blocks: Sequence[bytes], prompt: int, num_open: dict[str, int]) -> str:
        names = sorted(num_open)
        self._count += bool(prompt)
        return names[self._count % len(names)]


class RoundRobin(PrefixRouter):  # type: ignore[misc]  # Ray is not typed
    def initialize_state(self, **_kwargs: object) -> None:
        self._affinity = InTurn()
