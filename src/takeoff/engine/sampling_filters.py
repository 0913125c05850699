"""Temperature, top-k, top-p and min-p on one row, exact, without sorting the row.

A threshold first cuts the vocabulary to a few candidates; exact work is done on those. What must
touch the whole row does so in float32, where numpy's loops are vectorised; sums are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from takeoff.request import SamplingParams

BLOCK = 256  # logits a block; the k-th largest block maximum bounds the k-th largest logit from below
FEW = 4096  # so many are sorted or summed up directly
LIKELY = np.float32(1e-3)  # relative to the likeliest token: a peaked row has its nucleus above this
_BUCKET_SHIFT = 16  # a float32's upper 16 bits order positive numbers into buckets 1/128 wide

Weights = NDArray[np.float32]
Ids = NDArray[np.int64]


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
    token_ids = _candidates(row, top, params)
    weights = np.subtract(row if token_ids is None else row[token_ids], top)
    weights *= np.float32(1.0 / params.temperature)
    np.exp(weights, out=weights)  # the most likely token has weight 1
    if params.top_p < 1.0:
        kept = _nucleus(weights, params.top_p)
        token_ids = kept if token_ids is None else token_ids[kept]
        weights = weights[kept]
    if params.min_p > 0.0:
        weights[weights < params.min_p] = 0.0
    index = _pick(weights, u)
    return index if token_ids is None else int(token_ids[index])


def _candidates(row: NDArray[np.float32], top: np.float32, params: SamplingParams) -> Ids | None:
    """Ids [n] in rising order of the tokens that top-k and min-p can keep; None for all of them."""
    if 0 < params.top_k < len(row):
        return _top_k(row, params.top_k)
    if params.min_p > 0.0 and params.top_p == 1.0:  # top-p needs the sum of all
        # A hair lower than exact: the exact test is made on the weights.
        lowest = float(top) + params.temperature * (np.log(params.min_p) - 1e-4)
        return np.flatnonzero(row >= np.float32(lowest))
    return None


def _top_k(row: NDArray[np.float32], k: int) -> Ids:
    """Ids in rising order of the `k` largest of `row` [n], k < n, and of all that equal the last of them."""
    num_blocks = len(row) // BLOCK
    if k > num_blocks:
        return np.flatnonzero(row >= np.partition(row, len(row) - k)[len(row) - k])
    maxima = row[: num_blocks * BLOCK].reshape(num_blocks, BLOCK).max(axis=1)
    lowest = np.partition(maxima, num_blocks - k)[num_blocks - k]
    # Under a constraint nearly all tokens are banned: then few are left, and no block bounds them.
    token_ids = np.flatnonzero(row >= lowest if lowest > -np.inf else row > -np.inf)
    logits = row[token_ids]
    if len(token_ids) <= k:
        return token_ids
    kept: Ids = token_ids[logits >= np.partition(logits, len(logits) - k)[len(logits) - k]]
    return kept


def _nucleus(weights: Weights, top_p: float) -> Ids:
    """Indices in rising order of the fewest largest weights whose share reaches `top_p`, at least one.

    Of equal weights the one with the lower index counts as larger.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    needed = top_p * float(weights.sum(dtype=np.float64))
    if len(weights) <= FEW:
        return np.sort(_largest(weights, np.arange(len(weights)), needed))
    likely = np.flatnonzero(weights >= LIKELY)
    if len(likely) <= FEW and weights[likely].sum(dtype=np.float64) >= needed:
        return np.sort(_largest(weights, likely, needed))
    return _nucleus_by_buckets(weights, needed)


def _nucleus_by_buckets(weights: Weights, needed: float) -> Ids:
    """The same for a flat row: only the bucket in which the sum reaches `needed` is sorted."""
    buckets = weights.view(np.uint32) >> _BUCKET_SHIFT
    sums = np.bincount(buckets, weights=weights)
    from_top = np.cumsum(sums[::-1])
    place = min(int(np.searchsorted(from_top, needed)), len(sums) - 1)
    edge = len(sums) - 1 - place
    above = float(from_top[place] - sums[edge])
    kept = buckets > edge
    kept[_largest(weights, np.flatnonzero(buckets == edge), needed - above)] = True
    return np.flatnonzero(kept)


def _largest(weights: Weights, indices: Ids, needed: float) -> Ids:
    """Of `indices` those of the fewest largest weights whose sum reaches `needed`; all if none does."""
    order = indices[np.argsort(-weights[indices], kind="stable")]
    sums = np.cumsum(weights[order], dtype=np.float64)
    return order[: int(np.searchsorted(sums, needed)) + 1]


def _pick(weights: Weights, u: float) -> int:
    """The index at which the running sum of `weights` [n] passes the share `u` of the whole."""
    if len(weights) <= FEW:
        return _pass(np.cumsum(weights, dtype=np.float64), u)
    starts = np.arange(0, len(weights), BLOCK)
    sums = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    block = _pass(sums, u)
    before = sums[block - 1] if block else 0.0
    inside = np.cumsum(weights[starts[block] : starts[block] + BLOCK], dtype=np.float64)
    share = (u * sums[-1] - before) / inside[-1]
    return int(starts[block]) + _pass(inside, share)


def _pass(sums: NDArray[np.float64], share: float) -> int:
    """The first index whose running sum is above `share` of the last; never one that adds nothing."""
    target = min(share * sums[-1], np.nextafter(sums[-1], 0.0))
    return int(np.searchsorted(sums, target, side="right"))
