"""The next token of each sequence, and what it means for its client.

Knows no slots: whoever ends with its token is let go by the engine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.counters import Counters
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.logprobs import OwnLogprobs
from takeoff.engine.sampler import Sampler
from takeoff.engine.sequence import Sequence
from takeoff.request import FinishReason, TokenEvent, TokenLogprob, TokenLogprobs


class Chooser:
    """Samples, appends what was sampled to its sequence, and tells."""

    def __init__(self, kernels: Kernels, counters: Counters) -> None:
        self._piece, self._counters = kernels.piece, counters
        self._sampler = Sampler(kernels.n_vocab, kernels.eog_token_ids)
        self._eog = frozenset(kernels.eog_token_ids)

    def choose(self, seqs: list[Sequence], logits: NDArray[np.float32]) -> list[TokenEvent]:
        """Choose the next token of each, from `logits` [len(seqs), n_vocab]; one event of each."""
        with self._counters.timed("sample", tokens=len(seqs)):
            asked = [row for row, seq in enumerate(seqs) if seq.params.logprobs is not None]
            most = max((seqs[row].params.logprobs or 0 for row in asked), default=0)
            own = OwnLogprobs(logits[asked], most, self._piece) if asked else None  # of a copy
            chosen = self._sampler.sample(logits, [seq.sampling for seq in seqs])
            events = [self._accept(seq, token_id) for seq, token_id in zip(seqs, chosen, strict=True)]
            if own is not None:
                for place, row in enumerate(asked):
                    events[row] = self._with_logprobs(events[row], seqs[row], own, place)
        return events

    def _accept(self, seq: Sequence, token_id: int | None) -> TokenEvent:
        """Append a token to its sequence and say what it means for the client."""
        if seq.to_say_again:
            seq.say_again()
            return TokenEvent(request_id=seq.request_id)  # no news
        if token_id is None:
            return ended(seq, FinishReason.FAILED, error=_dead_end(seq))
        may_stop = seq.append(token_id)
        if token_id in self._eog:
            return ended(seq, _end_of(seq), (token_id,), seq.text.flush())
        text, stopped = seq.text.push(token_id, may_stop=may_stop)
        if stopped:
            return ended(seq, FinishReason.STOP, (token_id,), text)
        constraint = seq.sampling.constraint
        if constraint is not None and constraint.is_finished:
            return ended(seq, _end_of(seq), (token_id,), text + seq.text.flush())
        if seq.num_completion_tokens >= seq.max_completion_tokens:
            return ended(seq, FinishReason.LENGTH, (token_id,), text + seq.text.flush())
        return _event(seq, (token_id,), text)

    def _with_logprobs(self, event: TokenEvent, seq: Sequence, own: OwnLogprobs, row: int) -> TokenEvent:
        """`event` with what the model says of its token, and of the prompt's before the first."""
        if not event.token_ids:
            return event
        told = [own.of(row, token_id, seq.params.logprobs or 0) for token_id in event.token_ids]
        if seq.params.prompt_logprobs and seq.num_completion_tokens == 1:
            first = seq.token_ids[0]
            nothing_before = TokenLogprobs(TokenLogprob(first, self._piece(first), None))
            told = [nothing_before, *seq.prompt_logprobs, *told]
            seq.prompt_logprobs = []
        return replace(event, logprobs=tuple(told))


def ended(
    seq: Sequence,
    reason: FinishReason,
    token_ids: tuple[int, ...] = (),
    text: str = "",
    error: str | None = None,
) -> TokenEvent:
    """The one terminal event of a sequence."""
    event = _event(seq, token_ids, text)
    return replace(event, finish_reason=reason, stop_string=seq.text.stop_string, error=error)


def _event(seq: Sequence, token_ids: tuple[int, ...], text: str) -> TokenEvent:
    """What one step did to `seq`; the first event also says how it began."""
    if seq.num_completion_tokens > 1:
        return TokenEvent(request_id=seq.request_id, token_ids=token_ids, text=text)
    return TokenEvent(
        request_id=seq.request_id,
        token_ids=token_ids,
        text=text,
        cached_tokens=seq.num_cached_tokens,
        queue_s=seq.queue_s,
    )


def _end_of(seq: Sequence) -> FinishReason:
    """Why a sequence ends whose text is complete."""
    constraint = seq.sampling.constraint
    return FinishReason.LENGTH if constraint is not None and constraint.is_led else FinishReason.STOP


def _dead_end(seq: Sequence) -> str:
    """Why no token could be chosen."""
    constraint = seq.sampling.constraint
    if constraint is None:
        return "the model computed no finite logit"
    return constraint.error or "no token of the vocabulary goes on as the constraint wants"
