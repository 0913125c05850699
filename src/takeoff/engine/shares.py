"""Who goes first: the tenant for whom the least was computed, each token weighed by what it costs.

Virtual token counters: Sheng et al. 2024, "Fairness in Serving Large Language Models", arXiv:2401.00588.
A prompt counts when its sequence gets a slot, less what a cache had of it; a completion as it comes. Who had
nothing in work is lifted to the least of those who had, so that nobody saves up a claim by keeping quiet.
Pure arithmetic: knows no slots, no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from takeoff.engine.sequence import Sequence

PROMPT_COST = 1.0  # of a token; the paper's weights
COMPLETION_COST = 2.0


class Shares:
    """What each tenant has had, per unit of its priority."""

    def __init__(self) -> None:
        self._levels: dict[str, float] = {}  # of those not in it nothing is known: they are at the floor
        self._num_live: Counter[str] = Counter()

    @property
    def are_several(self) -> bool:
        """Whether more than one tenant has something in work."""
        return len(self._num_live) > 1

    def level(self, tenant: str) -> float:
        return self._levels.get(tenant, 0.0)

    def enter(self, seq: Sequence, running: Iterable[Sequence]) -> None:
        """`seq` has come. If it is its tenant's only one, that starts no lower than the others are.

        Of `running`, whose prompts are charged already, what is not computed yet does not lift anybody.
        """
        tenant = seq.tenant
        if not self._num_live[tenant]:
            floor = self._floor(running)
            self._levels = {
                each: level for each, level in self._levels.items() if level > floor or self._num_live[each]
            }
            self._levels.setdefault(tenant, floor)
        self._num_live[tenant] += 1

    def leave(self, seq: Sequence) -> None:
        """`seq` has ended. Without anybody in work what was is forgotten."""
        self._num_live[seq.tenant] -= 1
        if not self._num_live[seq.tenant]:
            del self._num_live[seq.tenant]
        if not self._num_live:
            self._levels.clear()

    def charge(self, seq: Sequence) -> None:
        """Count what was computed for `seq` since the last time; the first time its prompt."""
        cost = _cost(seq)
        self._levels[seq.tenant] = self.level(seq.tenant) + (cost - seq.charged) / seq.priority
        seq.charged = cost

    def _floor(self, running: Iterable[Sequence]) -> float:
        """The level of who has had the least of those with something in work."""
        to_come: defaultdict[str, float] = defaultdict(float)
        for seq in running:
            to_come[seq.tenant] += PROMPT_COST * (seq.num_pending_tokens - 1) / seq.priority
        return min((self.level(tenant) - to_come[tenant] for tenant in self._num_live), default=0.0)


def _cost(seq: Sequence) -> float:
    num_computed = max(seq.num_prompt_tokens - seq.num_cached_tokens, 0)
    return PROMPT_COST * num_computed + COMPLETION_COST * seq.num_completion_tokens
