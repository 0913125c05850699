"""How many replicas there should be: by the tokens that wait, not by requests, which differ a thousandfold.

Source: the interface is that of a policy class of `ray.serve.config.AutoscalingPolicy`. Ray Serve keeps the
bounds and waits as long as its configuration says before it adds or takes away.
"""

from __future__ import annotations

import math
from typing import Any

SPARE = 0.7  # of what the others can compute at once: then one is taken away


class ByQueuedTokens:
    """One more for each `queued_tokens` that wait; one less when the others would do."""

    def __init__(self, queued_tokens: int) -> None:
        self._queued_tokens = queued_tokens

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Of Ray Serve's AutoscalingContext the number that is wanted now."""
        told = context.aggregated_metrics or {}
        queued = sum(told.get("queued_tokens", {}).values())
        load = sum(told.get("load", {}).values())
        return wanted(context.current_num_replicas, queued, load, self._queued_tokens), {}


def wanted(current: int, queued_tokens: float, load: float, for_each: int) -> int:
    """Replicas for what waits and what runs.

    Args:
        current: that are up.
        queued_tokens: that wait for their first token, at all of them.
        load: requests open at all of them, by what one computes at once.
        for_each: tokens that may wait at one.
    """
    needed = math.ceil(queued_tokens / for_each)
    if needed > current:
        return needed
    if queued_tokens > for_each * (current - 1):
        return current
    if load == 0:
        return 0
    return max(current - 1, 1) if load <= (current - 1) * SPARE else current
