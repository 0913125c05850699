"""Random numbers that depend on (seed, position) alone: the same in any batch, process or replay."""

from __future__ import annotations

import numpy as np


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that the token at `position` of a request with `seed` is drawn with.

    Philox4x64-10 with key `seed` and counter `position`; 53 bits of its first word.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())
