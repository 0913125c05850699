"""What the prefix cache costs a prompt beside the copying: a lookup, its explanation, and room for one more.

    python bench/prefix_lookup.py

500 snapshots of 2,000 tokens of one tenant, of which the first 800 are the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from takeoff.engine.prefix_cache import PrefixCache, Scope, common_length
from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena

SNAPSHOTS, SHARED, TOKENS = 500, 800, 2_000


def milliseconds(work: Callable[[int], object], count: int = 200) -> float:
    """The median of many calls."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def main() -> None:
    rng = np.random.default_rng(0)
    scope = Scope("tenant")
    shared = rng.integers(0, 50_000, SHARED, np.int32)
    tails = rng.integers(0, 50_000, (SNAPSHOTS + 200, TOKENS - SHARED), np.int32)
    prompts = [np.concatenate([shared, tail]) for tail in tails]
    cache = PrefixCache(Arena(SNAPSHOTS * ALIGNMENT_BYTES), can_trim=True)
    for prompt in prompts[:SNAPSHOTS]:
        cache.reserve(scope, prompt, ALIGNMENT_BYTES)
    asked = [np.concatenate([prompt[:1_500], prompts[0][:500]]) for prompt in prompts[:200]]

    def compare_all(number: int) -> int:
        return max(common_length(prompt, asked[number]) for prompt in prompts[:SNAPSHOTS])

    def explain(number: int) -> object:
        return cache.memory.explain(scope, None, asked[number], found=1_500, common=1_500)

    def replace(number: int) -> object:
        return cache.reserve(scope, prompts[SNAPSHOTS + number], ALIGNMENT_BYTES, is_awaited=True)

    print(f"{len(cache)} snapshots of {TOKENS} tokens, {SHARED} of them shared; medians:")
    print(f"comparing every one   {milliseconds(compare_all):7.3f} ms")
    print(f"finding the longest   {milliseconds(lambda number: cache.find(scope, asked[number])):7.3f} ms")
    print(f"explaining the rest   {milliseconds(explain):7.3f} ms")
    print(f"making room for one   {milliseconds(replace):7.3f} ms")


if __name__ == "__main__":
    main()
