"""How well one number tells two kinds of cases apart: the area under the classifier's ROC curve.

0.5: not at all; 1: always; 0: always, the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLED = 4_000


@dataclass(frozen=True, slots=True)
class Separation:
    """The area, and the interval that holds it in 95 of 100 cases."""

    area: float
    low: float
    high: float
    num_cases: int

    @property
    def is_chance(self) -> bool:
        """Whether the two kinds can't be told apart, within noise."""
        return self.low <= 0.5 <= self.high

    def told(self) -> str:
        return f"AUC {self.area:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.num_cases}"


def separation(positive: Sequence[float], negative: Sequence[float], seed: int = 1) -> Separation:
    """How often a positive case has a higher number than a negative one, ties counted half.

    The interval comes from drawing as many cases of each kind again, with replacement.

    Source: Mann and Whitney 1947; Efron 1979, the percentile interval.

    Raises:
        ValueError: one kind has no case.
    """
    if not positive or not negative:
        raise ValueError("both kinds must have cases")
    high, low = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    wins = (high > low) + 0.5 * (high == low)
    draw = np.random.default_rng(seed)
    areas = _resampled(draw, wins)
    bounds = np.quantile(areas, (0.025, 0.975))
    return Separation(float(wins.mean()), float(bounds[0]), float(bounds[1]), len(positive) + len(negative))


def _resampled(draw: np.random.Generator, wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """[NUM_RESAMPLED]: areas of cases drawn with replacement, by how often each was drawn."""
    num_positive, num_negative = wins.shape
    positive = draw.multinomial(num_positive, np.full(num_positive, 1 / num_positive), NUM_RESAMPLED)
    negative = draw.multinomial(num_negative, np.full(num_negative, 1 / num_negative), NUM_RESAMPLED)
    areas: NDArray[np.float64] = ((positive @ wins) * negative).sum(axis=1) / wins.size
    return areas
