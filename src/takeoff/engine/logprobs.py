"""How likely the model itself held a token: before biases, bans, penalties, constraints and temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from takeoff.request import TokenLogprob, TokenLogprobs

LEAST = -9999.0  # in place of minus infinity, which JSON can't spell


class OwnLogprobs:
    """The logarithms of the probabilities of some rows, each for a token that comes next."""

    def __init__(self, logits: NDArray[np.float32], num_top: int, piece: Callable[[int], bytes]) -> None:
        """Keeps `logits`: they must stay as they are.

        Args:
            logits: [n, n_vocab] float32, as the model computed them.
            num_top: most likely tokens to name, 0 or more.
            piece: the bytes of a token.
        """
        peaks = logits.max(axis=1, keepdims=True)
        sums = np.exp(logits - peaks).sum(axis=1, dtype=np.float64)
        self._logits = logits
        self._norms = peaks[:, 0].astype(np.float64) + np.log(sums)  # log of the sum of exp(logits)
        self._piece = piece
        self._top = _top_ids(logits, num_top)

    def of(self, row: int, token_id: int, num_top: int) -> TokenLogprobs:
        """Of `token_id`, which row number `row` was followed by, and of its `num_top` alternatives.

        The likeliest first; `num_top` is at most what was asked for at first.
        """
        top = (self._of(row, int(other)) for other in self._top[row, :num_top])
        return TokenLogprobs(self._of(row, token_id), tuple(top))

    def _of(self, row: int, token_id: int) -> TokenLogprob:
        value = float(self._logits[row, token_id] - self._norms[row])
        return TokenLogprob(token_id, self._piece(token_id), max(value, LEAST))


def of_prompt(
    logits: NDArray[np.float32], next_ids: Sequence[int], num_top: int, piece: Callable[[int], bytes]
) -> list[TokenLogprobs]:
    """Of the tokens of a prompt that rows of it were followed by.

    Args:
        logits: [n, n_vocab] float32, of consecutive tokens of the prompt, n at least `len(next_ids)`.
        next_ids: the prompt's own tokens, each one place further.
    """
    own = OwnLogprobs(logits[: len(next_ids)], num_top, piece)
    return [own.of(row, token_id, num_top) for row, token_id in enumerate(next_ids)]


def _top_ids(logits: NDArray[np.float32], num_top: int) -> NDArray[np.int64]:
    """[n, num_top] ids of the likeliest tokens, likeliest first; of equals the lower id."""
    if num_top == 0:
        return np.empty((len(logits), 0), np.int64)
    found = np.sort(np.argpartition(logits, -num_top, axis=1)[:, -num_top:], axis=1)
    order = np.argsort(-np.take_along_axis(logits, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
