"""What changes single logits before filtering: biases, bans and penalties. Touches few tokens of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from takeoff.request import SamplingParams


class TokenCounts:
    """How often each token was seen in prompt and completion, and how often in the completion."""

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._token_ids = np.unique(np.array(prompt_token_ids, np.int64))  # tokens seen, each once
        self._counts = np.zeros(len(self._token_ids), np.float32)  # of each, in the completion
        self._places = {int(token_id): place for place, token_id in enumerate(self._token_ids)}

    def append(self, token_id: int) -> None:
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = len(self._places)
            self._token_ids = np.append(self._token_ids, token_id)
            self._counts = np.append(self._counts, np.float32(0))
        self._counts[place] += 1

    def apply(self, row: NDArray[np.float32], params: SamplingParams) -> None:
        """Penalise `row` [n_vocab] in place.

        Repetition divides positive and multiplies negative logits of every token seen (Keskar et
        al. 2019, arXiv:1909.05858, section 4.1); presence and frequency are subtracted for tokens
        of the completion (OpenAI API reference, "frequency and presence penalties").
        """
        logits = row[self._token_ids]
        if params.repetition_penalty != 1.0:
            penalty = np.float32(params.repetition_penalty)
            logits = np.where(logits > 0, logits / penalty, logits * penalty)
        if params.presence_penalty != 0.0:
            logits -= np.float32(params.presence_penalty) * (self._counts > 0)
        if params.frequency_penalty != 0.0:
            logits -= np.float32(params.frequency_penalty) * self._counts
        row[self._token_ids] = logits


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
