"""Why a prompt was not found in the prefix cache, token by token.

Remembered are hashes of every 16th prefix, never tokens: of what is kept by anybody, and of the last
that were evicted. Python's own hash is keyed anew in every process.

Who reads these counts can tell that *some* other tenant has a prompt that begins as one of his own
does, 16 tokens at a time. So they are in the metrics only, for who runs the server; where tenants do not
trust each other, none of them may read /metrics.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from takeoff.observe.misses import MissReason

BLOCK_TOKENS = 16
MAX_EVICTED_BLOCKS = 16_384  # a quarter of a million tokens, in 3 to 6 MB


@dataclass(frozen=True, slots=True)
class Miss:
    """Tokens of a prompt that were not found, from the place `start` on."""

    reason: MissReason
    start: int
    num_tokens: int


class PrefixMemory:
    """What prefixes there are and were, of all tenants."""

    def __init__(self) -> None:
        self._kept: Counter[int] = Counter()
        self._evicted: OrderedDict[int, None] = OrderedDict()

    def keep(self, lora: str | None, token_ids: NDArray[np.int32]) -> None:
        """A snapshot of `token_ids` [n] is there."""
        self._kept.update(_named(lora, _prefixes(token_ids)))

    def drop(self, lora: str | None, token_ids: NDArray[np.int32]) -> None:
        """It is there no more."""
        for name in _named(lora, _prefixes(token_ids)):
            self._kept[name] -= 1
            if not self._kept[name]:
                del self._kept[name]

    def note_evicted(self, scope: Hashable, token_ids: NDArray[np.int32]) -> None:
        """It had to go to make room."""
        for name in _named(scope, _prefixes(token_ids)):
            self._evicted.pop(name, None)
            self._evicted[name] = None
        while len(self._evicted) > MAX_EVICTED_BLOCKS:
            self._evicted.popitem(last=False)

    def explain(
        self, scope: Hashable, lora: str | None, wanted: NDArray[np.int32], *, found: int, common: int
    ) -> list[Miss]:
        """Why only the first `found` of the tokens `wanted` [n] were found.

        `common` of them are kept within the scope, whether they could be used or not.
        """
        prefixes = _prefixes(wanted)
        lengths = (
            (MissReason.WINDOW, common),
            (MissReason.EVICTED, _longest(_named(scope, prefixes), self._evicted)),
            (MissReason.OTHER_TENANT, _longest(_named(lora, prefixes), self._kept)),
        )
        misses, end = [], found
        for reason, length in lengths:
            if length >= end + BLOCK_TOKENS:
                misses.append(Miss(reason, end, length - end))
                end = length
        if end < len(wanted):
            is_short = len(wanted) < BLOCK_TOKENS or 0 < max(common, end) < BLOCK_TOKENS
            reason = MissReason.SHORT if is_short else MissReason.DIVERGED
            misses.append(Miss(reason, end, len(wanted) - end))
        return misses


def _prefixes(token_ids: NDArray[np.int32]) -> list[int]:
    """Hashes of the first 16, 32, ... tokens."""
    blocks = np.ascontiguousarray(token_ids, np.int32).tobytes()
    size = BLOCK_TOKENS * 4
    hashes, last = [], 0
    for start in range(0, len(blocks) - size + 1, size):
        last = hash((last, blocks[start : start + size]))
        hashes.append(last)
    return hashes


def _named(name: Hashable, prefixes: Iterable[int]) -> list[int]:
    """The hashes as they are for one scope or adapter."""
    own = hash((name,))
    return [prefix ^ own for prefix in prefixes]


def _longest(names: list[int], there: Container[int]) -> int:
    """Tokens of the longest prefix that is there."""
    return next((BLOCK_TOKENS * (i + 1) for i in range(len(names) - 1, -1, -1) if names[i] in there), 0)
