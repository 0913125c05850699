"""Whether what is measured again and again grows: a slope, and how sure it is.

Samples that follow each other are alike, so they are averaged in blocks first: the line is laid through the
means of the blocks, and its interval comes from how far these lie from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NORMAL = 1.959964  # 95 % of a normal distribution lie within so many deviations
LEAST_FREEDOM = 3  # blocks beyond the line and the levels, below which nothing is said

Sample = tuple[float, float]  # where (seconds, requests ..), and how much


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth for each unit of where the samples are, with the interval that holds it in 95 of 100 cases."""

    value: float
    margin: float  # to both sides
    num_blocks: int

    @property
    def low(self) -> float:
        return self.value - self.margin

    @property
    def high(self) -> float:
        return self.value + self.margin

    def is_flat(self, bound: float) -> bool:
        """Whether it does not grow within noise: the interval reaches 0, or the slope is below `bound`."""
        return self.low <= 0.0 or self.value < bound

    def told(self, unit: str, scale: float = 1.0) -> str:
        return f"{self.value * scale:+.3g} ± {self.margin * scale:.2g} {unit}"


def slope_of(series: Sequence[Sequence[Sample]], block: float) -> Slope:
    """The slope that several series have in common, each about a level of its own, in blocks so long.

    Raises:
        ValueError: there are too few blocks to say anything.
    """
    blocks = [_block_means(samples, block) for samples in series if samples]
    blocks = [each for each in blocks if len(each) > 1]
    num_blocks = sum(map(len, blocks))
    freedom = num_blocks - len(blocks) - 1
    if freedom < LEAST_FREEDOM:
        raise ValueError(f"{num_blocks} blocks in {len(blocks)} series are too few for a slope")
    x = np.concatenate([each[:, 0] - each[:, 0].mean() for each in blocks])
    y = np.concatenate([each[:, 1] - each[:, 1].mean() for each in blocks])
    spread = float(x @ x)
    value = float(x @ y) / spread
    rest = y - value * x
    deviation = float(np.sqrt(float(rest @ rest) / freedom / spread))
    return Slope(value, _student(freedom) * deviation, num_blocks)


def _block_means(samples: Sequence[Sample], block: float) -> NDArray[np.float64]:
    """[blocks, 2]: the mean place and the mean of the samples of each block."""
    points = np.asarray(samples, dtype=np.float64)
    numbers = ((points[:, 0] - points[0, 0]) // block).astype(np.int64)
    return np.array([points[numbers == number].mean(axis=0) for number in np.unique(numbers)])


def _student(freedom: int) -> float:
    """Within so many deviations lie 95 % of Student's distribution, to 1 % from 3 degrees of freedom on.

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    z, n = NORMAL, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
