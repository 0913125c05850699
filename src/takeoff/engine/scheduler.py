"""What the next calls compute, and for whom. Pure policy: no model, no clock, no I/O.

Sequences wait in order of arrival, take the lowest free slot, and are prefilled in order of
admission. A sequence whose prefix another one is about to compute waits for that one: the other is
ahead of it in this order, so waiting never takes longer than computing the prefix itself would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from takeoff.engine.llama.rows import ImageTokens
from takeoff.engine.prefix_cache import MIN_SHARED_TOKENS, common_length
from takeoff.engine.sequence import Sequence
from takeoff.engine.slots import SlotTable


@dataclass(frozen=True, slots=True)
class Slice:
    """The next `size` pending tokens of a sequence in prefill."""

    seq: Sequence
    size: int

    @property
    def completes_prompt(self) -> bool:
        return self.size == self.seq.num_pending_tokens

    @property
    def wants_all(self) -> bool:
        """Whether the logits of every token are wanted."""
        return self.seq.params.prompt_logprobs and self.image is None

    @property
    def image(self) -> ImageTokens | None:
        """What the kernels take in place of token ids; None: they are text."""
        start = self.seq.num_computed_tokens
        span = self.seq.span_at(start)
        if span is None:
            return None
        vectors = span.tokens.vectors[start - span.start : start - span.start + self.size]
        return ImageTokens(vectors, span.tokens.sees_itself)


class Scheduler:
    """The waiting and the running sequences of one engine.

    `exact_slices` plans one sequence per call and never a slice of one token: then a prompt's
    result does not depend on how it was cut (deterministic mode).
    """

    def __init__(self, n_slots: int, *, max_slice: int, exact_slices: bool) -> None:
        self.slots = SlotTable(n_slots)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self._max_slice = max_slice
        self._max_outputs = n_slots  # rows whose logits one call may want
        self._exact_slices = exact_slices

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    def admit(self) -> Iterator[Sequence]:
        """Give free slots to waiting sequences; yields each as soon as it runs."""
        while self.waiting and self.slots.try_acquire(self.waiting[0]):
            seq = self.waiting.popleft()
            self.running.append(seq)
            yield seq

    def find(self, request_id: int) -> Sequence | None:
        """The live sequence of a request."""
        for seq in (*self.running, *self.waiting):
            if seq.request_id == request_id:
                return seq
        return None

    def release(self, seq: Sequence) -> int | None:
        """Forget `seq`; returns the slot that it had, if it ran."""
        if seq.slot is None:
            self.waiting.remove(seq)
            return None
        self.running.remove(seq)
        return self.slots.release(seq)

    def decoding(self) -> list[Sequence]:
        """Sequences with one token to compute, in slot order."""
        return [seq for seq in self.slots if seq.is_decoding]

    def followers_to_wake(self) -> list[Sequence]:
        """Sequences whose leader has come far enough, or is gone; they follow nobody any more."""
        woken = []
        for seq in self.running:
            leader = seq.leader
            if leader is not None and (leader.slot is None or leader.num_computed_tokens >= seq.fork_at):
                seq.leader = None
                woken.append(seq)
        return woken

    def leader_for(self, seq: Sequence, num_available: int) -> tuple[Sequence, int] | None:
        """Who, ahead of `seq`, will compute more of its prefix than the `num_available` tokens there are.

        Returns:
            The leader and the number of tokens to wait for; None when waiting gains nothing.
        """
        token_ids = np.array(seq.token_ids, np.int32)
        best: tuple[Sequence, int] | None = None
        for other in self.running[: self.running.index(seq)]:
            if other.scope != seq.scope or other.num_pending_tokens == 1:
                continue
            length = min(
                common_length(np.array(other.token_ids, np.int32), token_ids), self.reusable_tokens(seq)
            )
            least = max(
                other.num_computed_tokens, num_available + MIN_SHARED_TOKENS - 1, best[1] if best else 0
            )
            if length > least:
                best = (other, length)
        return best

    def reusable_tokens(self, seq: Sequence) -> int:
        """How much of `seq` may come from elsewhere: its last token is always computed, for its logits."""
        return seq.whole_images(len(seq.token_ids) - (2 if self._exact_slices else 1))

    def prefill(self, budget: int) -> list[Slice]:
        """Slices of about `budget` tokens together, given out in order of admission, in slot order.

        All of them are of one adapter, the first one's: a call computes with one adapter. A slice of
        an image is alone, and so is one that wants the logits of every token.
        """
        slices: list[Slice] = []
        for seq in self.running:
            if seq.num_pending_tokens == 1 or seq.leader is not None:
                continue
            if slices and (self._exact_slices or budget < 2):
                break
            piece = Slice(seq, self._slice_size(seq, budget))
            is_alone = piece.image is not None or piece.wants_all
            if slices and (seq.lora != slices[0].seq.lora or is_alone):
                continue
            slices.append(piece)
            if is_alone:
                break
            budget -= piece.size
        position = {seq: place for place, seq in enumerate(self.slots)}
        return sorted(slices, key=lambda piece: position[piece.seq])

    def _slice_size(self, seq: Sequence, budget: int) -> int:
        """Up to the budget, the next fork point, and the next border of an image.

        Of an exact slice a rest of one token becomes part; an image that sees itself is not cut.
        """
        pending, computed = seq.num_alike_tokens, seq.num_computed_tokens
        span = seq.span_at(computed)
        if span is not None and span.tokens.sees_itself:
            return pending
        max_slice = min(self._max_slice, self._max_outputs) if seq.params.prompt_logprobs else self._max_slice
        size = min(pending, max(budget, 2), max_slice)
        ahead = [point - computed for point in seq.fork_points if point - computed >= 2]
        size = min(size, *ahead) if ahead else size
        if self._exact_slices and pending - size == 1:
            return pending if pending <= max_slice else max(size - 1, 1)
        return size
