"""What changes single logits before filtering: biases, bans and penalties. Touches few tokens of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from takeoff.request import SamplingParams


class TokenCounts:
    """How often each token was seen in prompt and completion, and how often in the completion."""

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._seen: dict[int, int] = dict.fromkeys(prompt_token_ids, 0)  # token -> count in the completion

    def append(self, token_id: int) -> None:
        self._seen[token_id] = self._seen.get(token_id, 0) + 1

    def apply(self, row: NDArray[np.float32], params: SamplingParams) -> None:
        """Penalise `row` [n_vocab] in place.

        Repetition divides positive and multiplies negative logits of every token seen (Keskar et
        al. 2019, arXiv:1909.05858, section 4.1); presence and frequency are subtracted for tokens
        of the completion (OpenAI API reference, "frequency and presence penalties").
        """
        token_ids = np.fromiter(self._seen.keys(), np.int64, len(self._seen))
        counts = np.fromiter(self._seen.values(), np.float32, len(self._seen))
        logits = row[token_ids]
        if params.repetition_penalty != 1.0:
            penalty = np.float32(params.repetition_penalty)
            logits = np.where(logits > 0, logits / penalty, logits * penalty)
        logits -= np.float32(params.presence_penalty) * (counts > 0)
        logits -= np.float32(params.frequency_penalty) * counts
        row[token_ids] = logits


class NgramIndex:
    """Which tokens would repeat an n-gram of prompt and completion.

    As transformers' NoRepeatNGramLogitsProcessor, built up token by token.
    """

    def __init__(self, size: int, prompt_token_ids: Sequence[int]) -> None:
        self._size = size
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self._last: tuple[int, ...] = ()
        for token_id in prompt_token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        if len(self._last) == self._size - 1:
            self._followers.setdefault(self._last, []).append(token_id)
        self._last = (*self._last, token_id)[-(self._size - 1) :] if self._size > 1 else ()

    def banned(self) -> list[int]:
        """Tokens that must not come next."""
        if len(self._last) < self._size - 1:
            return []
        return self._followers.get(self._last, [])
