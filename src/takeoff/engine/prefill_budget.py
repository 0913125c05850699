"""How much of the waiting prompts the next call may compute, so that no stream waits longer than it may.

Mixing decode and prefill in one call saves nothing with llama.cpp (a ubatch holds the same number
of tokens of each sequence), so a step is two calls: one that decodes every running sequence, whose
tokens are delivered at once, and one that prefills. The gap between two tokens of a stream is the
time of that prefill, of the next decode, and of what lies between; what the last two leave of the
longest gap is the prefill's. But where few decode, a step is hardly longer than what any call costs, and
slices that fit would be mostly that: who waits would wait for nothing, and gaps that nobody sees may be
longer. Costs are learnt from the calls as they come (`CallCost`).

Of slices of several sequences llama.cpp computes as many tokens together as the shortest has, then what
is left of the others: each length that is different costs a pass over the weights of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from takeoff.engine.call_cost import CallCost, Cost, Work

GAP_IN_DECODE_STEPS = 3.0  # default gap between two tokens of a stream, in steps without prefill
UNSEEN_GAP_S = 0.03  # nobody reads thirty tokens a second
MAX_PREFILL_S = 0.1  # with nothing to decode: how long a cancellation may go unnoticed
MAX_CALL_S = 1.0  # that a call may be expected to take, if need be with fewer tokens than the next
MIN_PREFILL_TOKENS = 16  # smaller calls cost nearly as much; prefill always makes progress
DRAFTED_WEIGHT = 0.3  # of the newest step in how much longer steps with drafts are
MIN_STRETCH = 1.25  # but they take at most so many times what they take at a prompt's beginning


@dataclass(slots=True)
class Room:
    """What is left of one prefill call: seconds and tokens, used up slice by slice."""

    cost: Cost
    seconds: float  # after the call's fixed cost; may be negative
    tokens: int
    lengths: set[int] = field(default_factory=set)  # of the slices that are in the call

    def fitting(self, start: int, wanted: int) -> int:
        """Tokens of a sequence that fit, of `wanted` from position `start` on.

        Of an empty call at least one; of another one 0 where they, or what they leave, are too few to be
        worth a pass.
        """
        if not self.lengths:
            size = max(self._within(self.seconds, start), self._least(start))
            return min(size, wanted, self.tokens)
        size = min(self._within(self.seconds - self.cost.fixed, start), wanted)
        if size < min(wanted, MIN_PREFILL_TOKENS):
            size = 0
        most = self._within(self.seconds, start)
        alike = (n for n in self.lengths if n <= most and (n == wanted or n + MIN_PREFILL_TOKENS <= wanted))
        return min(max([size, *alike]), self.tokens)

    def take(self, start: int, size: int) -> None:
        """Use it for `size` tokens of a sequence from position `start` on."""
        if self.lengths and size not in self.lengths:
            self.seconds -= self.cost.fixed
        work = Work.of([(start, size)])
        self.seconds -= self.cost.per_token * work.tokens + self.cost.per_pair * work.pairs
        self.tokens -= size
        self.lengths.add(size)

    def _least(self, start: int) -> int:
        """What a call holds even where there is no time: nobody waits for ever."""
        least_s = MIN_STRETCH * MIN_PREFILL_TOKENS * self.cost.per_token
        if (
            self.cost.fixed < MAX_CALL_S
        ):  # a starved machine, where no call can keep to it, is best left early
            least_s = min(least_s, MAX_CALL_S - self.cost.fixed)
        return max(min(MIN_PREFILL_TOKENS, self._within(least_s, start)), 1)

    def _within(self, seconds: float, start: int) -> int:
        """The largest size whose slice takes at most so long: the root of a quadratic."""
        if seconds <= 0.0:
            return 0
        linear = self.cost.per_token + self.cost.per_pair * start
        root = 2 * seconds / (linear + math.sqrt(linear * linear + 2 * self.cost.per_pair * seconds))
        return int(root)


class PrefillBudget:
    """The costs of decode and prefill calls, and what they leave to the next prefill."""

    def __init__(self, *, itl_slo_s: float | None, guess: Cost) -> None:
        """`itl_slo_s`: the longest gap wanted between tokens; `guess` of the costs, from the warm-up."""
        self._itl_slo_s = itl_slo_s
        self._decode, self._prefill = CallCost(guess), CallCost(guess)
        self._drafted = 1.0  # times as long as without drafts a step takes, of late

    def learn_decode(self, work: Work, seconds: float, *, has_drafts: bool = False) -> None:
        """A step's decode calls took so long; with drafts they computed more tokens than `work` says."""
        times = max(seconds / self._decode.seconds(work), 1.0) if has_drafts else 1.0
        self._drafted += DRAFTED_WEIGHT * (times - self._drafted)
        if not has_drafts:
            self._decode.learn(work, seconds)

    def learn_prefill(self, work: Work, seconds: float) -> None:
        """A prefill call took so long."""
        self._prefill.learn(work, seconds)

    def decode_s(self, work: Work) -> float:
        """Seconds that decode calls are expected to take."""
        return self._decode.seconds(work)

    def prefill_s(self, work: Work) -> float:
        """Seconds that a prefill call is expected to take."""
        return self._prefill.seconds(work)

    def room(self, decoding: Work, *, spent_s: float, max_tokens: int) -> Room:
        """What the next prefill call may hold.

        Args:
            decoding: what the next decode will compute; of no call where nothing decodes.
            spent_s: seconds since the streams got their last tokens.
        """
        cost = self._prefill.now
        return Room(cost, self._seconds(decoding) - spent_s - cost.fixed, max_tokens)

    def _seconds(self, decoding: Work) -> float:
        """From the streams' last tokens to the beginning of the next decode."""
        if decoding.calls == 0:
            return MAX_PREFILL_S
        decode_s = self._decode.seconds(decoding)
        next_s = self._drafted * decode_s
        if self._itl_slo_s is not None:
            return min(self._itl_slo_s - next_s, MAX_CALL_S)
        gap_s = max(GAP_IN_DECODE_STEPS * decode_s, UNSEEN_GAP_S)
        return min(max(gap_s - next_s, decode_s), MAX_CALL_S)
