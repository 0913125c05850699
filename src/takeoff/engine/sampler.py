"""The next token of every sequence of a step. Order of work: `SamplingParams`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.constraint import ConstraintState
from takeoff.engine.penalties import NgramIndex, TokenCounts
from takeoff.engine.randomness import uniform
from takeoff.engine.sampling_filters import draw
from takeoff.request import SamplingParams


class SamplingState:
    """What sampling remembers of one sequence. `params.seed` must be set unless it is greedy."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        n_vocab: int,
        constraint: ConstraintState | None = None,
    ) -> None:
        self.params = params
        self.constraint = constraint
        self.num_completion_tokens = 0
        has_penalties = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        size = params.no_repeat_ngram_size
        self.counts = TokenCounts(prompt_token_ids) if has_penalties else None
        self.ngrams = NgramIndex(size, prompt_token_ids) if size else None
        self.bias_token_ids = np.fromiter(params.logit_bias.keys(), np.int64, len(params.logit_bias))
        self.biases = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        assert not len(self.bias_token_ids) or self.bias_token_ids.max() < n_vocab

    def append(self, token_id: int) -> None:
        """Note a token that became part of the completion."""
        self.num_completion_tokens += 1
        if self.constraint is not None:
            self.constraint.consume(token_id)
        if self.counts is not None:
            self.counts.append(token_id)
        if self.ngrams is not None:
            self.ngrams.append(token_id)

    @property
    def bans_end(self) -> bool:
        """Whether the end of text may not come now; with ignore_eos never, so that lengths are exact."""
        return self.params.ignore_eos or self.num_completion_tokens < self.params.min_new_tokens


class Sampler:
    """Chooses tokens for a batch. A row's choice depends on nothing but that row and its state."""

    def __init__(self, n_vocab: int, eog_token_ids: Sequence[int]) -> None:
        self._n_vocab = n_vocab
        self._eog = np.array(eog_token_ids, np.int64)

    def sample(self, logits: NDArray[np.float32], states: Sequence[SamplingState]) -> list[int | None]:
        """One token id a row; None where no logit of the row is finite.

        Args:
            logits: [len(states), n_vocab] float32. Rows may be modified.
        """
        chosen: list[int | None] = []
        for row, state in zip(logits, states, strict=True):
            if state.constraint is None:
                self._adjust(row, state)
            else:
                self._constrain(row, state, state.constraint)
            token_id = _chosen(row, state)
            if token_id is not None and state.constraint is not None:
                token_id = state.constraint.fitting(token_id)
            chosen.append(token_id)
        return chosen

    def _constrain(self, row: NDArray[np.float32], state: SamplingState, constraint: ConstraintState) -> None:
        """Adjust, then ban what the constraint blocks; other bans yield where nothing would be left."""
        blocked = constraint.blocked()
        free = row.copy()
        self._adjust(row, state)
        row[blocked] = -np.inf
        if not np.isfinite(row.max()):
            np.copyto(row, free)
            row[blocked] = -np.inf

    def _adjust(self, row: NDArray[np.float32], state: SamplingState) -> None:
        """Biases, penalties and bans, in place. An n-gram ban yields where nothing would be left."""
        if len(state.biases):
            row[state.bias_token_ids] += state.biases
        if state.bans_end:
            row[self._eog] = -np.inf
        if state.counts is not None:
            state.counts.apply(row, state.params)
        if state.ngrams is not None and (banned := state.ngrams.banned()):
            before = row[banned]
            row[banned] = -np.inf
            if row.max() == -np.inf:
                row[banned] = before


def _chosen(row: NDArray[np.float32], state: SamplingState) -> int | None:
    """The most likely token, or one that is drawn; None: no logit is finite."""
    if state.params.is_greedy:
        best = int(row.argmax())
        return best if np.isfinite(row[best]) else None
    return draw(row, state.params, uniform(state.params.seed or 0, state.num_completion_tokens))
