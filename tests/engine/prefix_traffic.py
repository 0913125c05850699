"""What a server is asked for, as token ids: prompts that begin alike, conversations, and what comes once.

And two caches that it is shown to: ours, and one that lets go what was used longest ago.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.prefix_cache import MIN_SHARED_TOKENS, PrefixCache, Scope
from takeoff.engine.prefix_tree import PrefixTree
from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena, Region

Tokens = NDArray[np.int32]
TOKENS_PER_PAGE = 16
ONE = Scope("")


class Asked(NamedTuple):
    kind: str  # "shared", "once", or "turn 1", "turn 2", ... of a conversation
    prompt: Tokens
    answer: Tokens


class Fresh:
    """Tokens that nobody had before, as many as drawn from a range."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._next = 0

    def __call__(self, least: int, most: int) -> Tokens:
        start, self._next = self._next, self._next + self.rng.randrange(least, most)
        return np.arange(start, self._next, dtype=np.int32)


def mixed(count: int, *, shared: float, once: float, chats: int, seed: int = 0) -> Iterator[Asked]:
    """So large shares of prompts with a common beginning of 600 tokens, and of those that come once.

    The others are turns of `chats` conversations side by side; one that ends makes room for a new one.
    """
    fresh = Fresh(seed)
    system = fresh(600, 601)
    turns = [conversation(fresh) for _ in range(chats)]
    for _ in range(count):
        drawn = fresh.rng.random()
        if drawn < shared:
            yield Asked("shared", np.concatenate([system, fresh(20, 120)]), fresh(20, 100))
        elif drawn < shared + once:
            yield Asked("once", fresh(100, 2_000), fresh(20, 300))
        else:
            number = fresh.rng.randrange(chats)
            asked = next(turns[number], None)
            if asked is None:
                turns[number] = conversation(fresh)
                asked = next(turns[number])
            yield asked


def in_turn(count: int, seed: int = 0) -> Iterator[Asked]:
    """One user's conversations, one after the other."""
    fresh = Fresh(seed)
    asked = (each for _ in range(count) for each in conversation(fresh))
    yield from (each for _, each in zip(range(count), asked, strict=False))


def conversation(fresh: Fresh) -> Iterator[Asked]:
    text = fresh(200, 800)
    for turn in range(1, fresh.rng.randrange(3, 13)):
        prompt = np.concatenate([text, fresh(20, 150)])
        answer = fresh(50, 250)
        text = np.concatenate([prompt, answer])
        yield Asked(f"turn {turn}", prompt, answer)


class Cache(Protocol):
    def found(self, prompt: Tokens) -> int:
        """Tokens of it that are there; they are used."""

    def keep(self, token_ids: Tokens) -> None: ...


class Ours:
    def __init__(self, num_tokens: int) -> None:
        self._cache = PrefixCache(make_arena(num_tokens), can_trim=True)

    def found(self, prompt: Tokens) -> int:
        match = self._cache.find(ONE, prompt)
        if match is None:
            return 0
        self._cache.use(match)
        return match.length

    def keep(self, token_ids: Tokens) -> None:
        if not self._cache.covers(ONE, token_ids):
            self._cache.reserve(ONE, token_ids, num_bytes(token_ids))


class LongestUnused:
    def __init__(self, num_tokens: int) -> None:
        self._arena = make_arena(num_tokens)
        self._tree: PrefixTree[int] = PrefixTree(can_trim=True, half_life=1.0)
        self._regions: dict[int, Region] = {}  # the longest unused first
        self._count = 0

    def found(self, prompt: Tokens) -> int:
        item, length = self._tree.find(ONE, prompt) or (0, 0)
        if length < MIN_SHARED_TOKENS:
            return 0
        self._regions[item] = self._regions.pop(item)
        return length

    def keep(self, token_ids: Tokens) -> None:
        for item in self._tree.covered_by(ONE, token_ids):
            self._drop(item)
        if num_bytes(token_ids) > self._arena.size_bytes:
            return
        while (region := self._arena.allocate(num_bytes(token_ids))) is None:
            self._drop(next(iter(self._regions)))
        self._count += 1
        self._tree.add(ONE, token_ids, self._count)
        self._regions[self._count] = region

    def _drop(self, item: int) -> None:
        self._tree.remove(item)
        self._arena.free(self._regions.pop(item))


@dataclass
class Found:
    """Tokens of the prompts of each kind, and those that were found."""

    tokens: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def share(self, *kinds: str) -> float:
        """Of the tokens of these kinds, or of all."""
        named = kinds or tuple(self.tokens)
        return sum(self.found[kind] for kind in named) / sum(self.tokens[kind] for kind in named)


def show(cache: Cache, traffic: Iterator[Asked]) -> Found:
    """What of it was found. A snapshot lacks the last token: nothing was computed behind it."""
    seen = Found()
    for kind, prompt, answer in traffic:
        seen.tokens[kind] += len(prompt)
        seen.found[kind] += cache.found(prompt[:-1])
        cache.keep(np.concatenate([prompt, answer])[:-1])
    return seen


def make_arena(num_tokens: int) -> Arena:
    return Arena(num_tokens // TOKENS_PER_PAGE * ALIGNMENT_BYTES)


def num_bytes(token_ids: Tokens) -> int:
    return -(-len(token_ids) // TOKENS_PER_PAGE) * ALIGNMENT_BYTES
