"""What a call to the kernels takes, learnt from the calls before it.

    seconds = fixed + per_token * tokens + per_pair * pairs

A call has a fixed cost, each of its tokens costs the same passes through the weights, and attention
costs for each pair of a token and one before it that it attends to. That is how much of a long
prompt's later slices is attention, and why their slices must be shorter than the first ones.

The three costs are kept as multiples of a first guess, and fitted by least squares of relative
errors to all calls, older ones weighing less and less. The guess itself stays in the fit as one call
of small weight: it decides what the calls don't tell, for example how much of calls of always the same
size is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

FORGETTING = 0.97  # what a call weighs after the next one
SURPRISE, FORGETTING_SURPRISED = (
    1.5,
    0.8,
)  # the same after one that is so many times off: a machine may change
GUESS_WEIGHT = 0.005  # of the first guess, against 1 of a call
GUESSED_DEPTH = 2048  # tokens before a token whose attention is guessed to cost as much as all else
OUTLIER = 2.0  # a call that took so many times longer than expected counts as this: it was disturbed
MIN_FACTOR = 1e-3  # no cost is nothing
_SWEEPS = 8  # of the solver, which starts from its last solution


class Cost(NamedTuple):
    """In seconds; all are positive."""

    fixed: float
    per_token: float
    per_pair: float


class Work(NamedTuple):
    """What one call computes, or several."""

    calls: int  # passes over the weights
    tokens: int
    pairs: int  # of a token and one before it

    @classmethod
    def of(cls, slices: Iterable[tuple[int, int]], calls: int = 1) -> Work:
        """Of each slice so many tokens of a sequence: pairs of its first position and its size."""
        sizes = [(start, size) for start, size in slices]
        pairs = sum(size * start + size * (size - 1) // 2 for start, size in sizes)
        return cls(calls, sum(size for _start, size in sizes), pairs)


def guessed(few: tuple[int, float], many: tuple[int, float]) -> Cost:
    """A first guess from two calls at the beginning of a sequence: numbers of tokens, and seconds.

    Of attention they tell nothing; it is guessed high rather than low, since the first calls may be deep
    in a long prompt.
    """
    per_token = max((many[1] - few[1]) / (many[0] - few[0]), 0.1 * many[1] / many[0])
    fixed = max(few[1] - few[0] * per_token, 0.1 * few[1])
    return Cost(fixed, per_token, per_token / GUESSED_DEPTH)


class CallCost:
    """The cost of one kind of calls, as it is now."""

    def __init__(self, guess: Cost) -> None:
        self._guess = guess
        self._factors = [1.0, 1.0, 1.0]
        self._moments = [[0.0] * 3 for _ in range(3)]  # sums over the calls of products of their shares
        self._targets = [0.0] * 3

    @property
    def now(self) -> Cost:
        """What the calls so far say."""
        return Cost(*(factor * guess for factor, guess in zip(self._factors, self._guess, strict=True)))

    def seconds(self, work: Work) -> float:
        """What `work` will take."""
        return sum(cost * amount for cost, amount in zip(self.now, work, strict=True))

    def learn(self, work: Work, seconds: float) -> None:
        """`work` took so long."""
        expected = self.seconds(work)
        shares = [guess * amount / expected for guess, amount in zip(self._guess, work, strict=True)]
        relative = min(max(seconds / expected, 1 / OUTLIER), OUTLIER)
        kept = FORGETTING if 1 / SURPRISE < relative < SURPRISE else FORGETTING_SURPRISED
        for i in range(3):
            self._targets[i] = kept * self._targets[i] + shares[i] * relative
            for j in range(3):
                self._moments[i][j] = kept * self._moments[i][j] + shares[i] * shares[j]
        self._fit()

    def _fit(self) -> None:
        """Least squares with factors that are not negative, one factor after the other (Gauss-Seidel)."""
        for _ in range(_SWEEPS):
            for i in range(3):
                others = sum(self._moments[i][j] * self._factors[j] for j in range(3) if j != i)
                target = self._targets[i] + GUESS_WEIGHT - others
                self._factors[i] = max(target / (self._moments[i][i] + GUESS_WEIGHT), MIN_FACTOR)
