"""The highest rate of arrivals at which a promise is still kept: a search over measured rates."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

LOWEST_RATE, HIGHEST_RATE = 0.05, 1_000.0  # requests/s
PRECISION = 1.1  # the search ends when the rate that fails is at most so many times the one that holds
MAX_PROBES = 16


async def highest_rate(keeps: Callable[[float], Awaitable[bool]], first: float) -> float:
    """Requests a second; 0 where even the lowest rate breaks the promise.

    Doubles or halves from `first` until the answer changes, then narrows down between the two.
    """
    good, bad = 0.0, math.inf
    rate = min(max(first, LOWEST_RATE), HIGHEST_RATE)
    for _ in range(MAX_PROBES):
        if await keeps(rate):
            good = rate
        else:
            bad = rate
        if good == 0.0:
            if rate <= LOWEST_RATE:
                break
            rate = max(rate / 2, LOWEST_RATE)
        elif bad == math.inf:
            if rate >= HIGHEST_RATE:
                break
            rate = min(rate * 2, HIGHEST_RATE)
        elif bad / good <= PRECISION:
            break
        else:
            rate = math.sqrt(good * bad)
    return good
