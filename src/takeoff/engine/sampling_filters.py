"""Temperature, top-k, top-p and min-p on one row, exact, without sorting the row.

A threshold first cuts the vocabulary to a few candidates; exact work is done on those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from takeoff.request import SamplingParams

BLOCK = 256  # logits a block; the k-th largest block maximum bounds the k-th largest logit from below


def draw(row: NDArray[np.float32], params: SamplingParams, u: float) -> int | None:
    """Draw a token from `row` [n_vocab], logits after penalties, with `u` in [0, 1).

    Of logits equal to the k-th largest, top-k keeps all. Top-p keeps the fewest most likely tokens
    whose probability, renormalised after top-k, reaches it; min-p is relative to the most likely one.

    Returns:
        The token id; None when no logit is finite.
    """
    top = row.max()
    if not np.isfinite(top):
        return None
    candidates = _candidates(row, top, params)
    logits = row if candidates is None else row[candidates]
    weights = np.exp((logits.astype(np.float64) - float(top)) / params.temperature)
    if params.top_p < 1.0:
        weights = np.where(_nucleus(weights, params.top_p), weights, 0.0)
    if params.min_p > 0.0:
        weights[weights < params.min_p] = 0.0  # the most likely token has weight 1
    sums = np.cumsum(weights)
    index = int(np.searchsorted(sums, u * sums[-1], side="right"))
    return index if candidates is None else int(candidates[index])


def _candidates(
    row: NDArray[np.float32], top: np.float32, params: SamplingParams
) -> NDArray[np.int64] | None:
    """Ids [n] in rising order of the tokens that top-k and min-p can keep; None for all of them."""
    lowest = -np.inf
    if (
        params.min_p > 0.0 and params.top_p == 1.0
    ):  # top-p needs all; a hair lower than exact: the exact test is made on the weights
        lowest = float(top) + params.temperature * (np.log(params.min_p) - 1e-4)
    if 0 < params.top_k < len(row):
        lowest = max(lowest, _kth_largest(row, params.top_k))
    return None if lowest == -np.inf else np.flatnonzero(row >= np.float32(lowest))


def _kth_largest(row: NDArray[np.float32], k: int) -> float:
    """The k-th largest value of `row` [n], k < n."""
    num_blocks = len(row) // BLOCK
    if k <= num_blocks:
        maxima = row[: num_blocks * BLOCK].reshape(num_blocks, BLOCK).max(axis=1)
        row = row[row >= np.partition(maxima, num_blocks - k)[num_blocks - k]]
    return float(np.partition(row, len(row) - k)[len(row) - k])


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """[n] bool: the fewest largest weights whose share reaches `top_p`, at least one.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    likely = (
        np.flatnonzero(weights >= weights.max() * 1e-7) if len(weights) > 4096 else np.arange(len(weights))
    )
    total = weights.sum()
    if weights[likely].sum() < top_p * total:
        likely = np.arange(len(weights))
    order = likely[np.argsort(-weights[likely], kind="stable")]
    reached = np.cumsum(weights[order]) >= top_p * total
    count = int(np.argmax(reached)) + 1 if reached.any() else len(order)
    kept = np.zeros(len(weights), np.bool_)
    kept[order[:count]] = True
    return kept
