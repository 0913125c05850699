"""What the next calls compute, and for whom. Pure policy: no model, no clock, no I/O.

Who waits takes the lowest free slot: first the tenant that has had the least (`shares`), each tenant's in
order of arrival. While no slot is free, one of another tenant that has had more and holds more of them is put
aside. Every other prefill call goes to the prompts in the order in which the shares let them in; in those
between, who needs much less than the first of that order goes before it. So a short prompt doesn't wait for a
long one, and nobody takes more than twice the calls that it would take in that order. A sequence whose prefix
another one, admitted before it, is about to compute waits for that one, which then counts as being as near to
its end as the waiting one.

There is a line for each class of slots, the shortest that a sequence fits into; so who waits for a long
slot holds up nobody who wants a short one, and nobody else takes the long one. Who outgrows a slot stands
in the line for a longer one, at the place of its arrival. Nobody waits for ever: of one tenant, who has one
of the longest slots goes on to its end, so the first in that line gets one; then those who wait in slots of
the next shorter class leave them, and so on, and only the older are ever ahead. Of other tenants those are
ahead who have had less, and what they get ends that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from takeoff.engine.line import Line, arrival
from takeoff.engine.llama.rows import ImageTokens
from takeoff.engine.prefill_budget import Room
from takeoff.engine.prefix_cache import MIN_SHARED_TOKENS, common_length
from takeoff.engine.sequence import Sequence
from takeoff.engine.shares import Shares
from takeoff.engine.slots import SlotTable
from takeoff.ipc.messages import SlotClass

OVERTAKING = 4  # so many times fewer pending tokens let a prompt go before the first in order of admission


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

    def __init__(self, slot_classes: tuple[SlotClass, ...], *, max_slice: int, exact_slices: bool) -> None:
        self.slots = SlotTable(slot_classes)
        self.running: list[Sequence] = []  # in order of admission
        self._lines = [Line() for _ in slot_classes]
        self._shares = Shares()
        self._last_started: dict[str, Sequence] = {}  # by tenant, of those that run
        self._max_slice = max_slice
        self._max_outputs = sum(slots.n_slots for slots in slot_classes)  # logits that one call may want
        self._exact_slices = exact_slices
        self._is_turn_of_short = False  # of those that overtake, in the next prefill call

    @property
    def waiting(self) -> Iterator[Sequence]:
        """Sequences without a slot."""
        return chain.from_iterable(self._lines)

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._lines))

    def add(self, seq: Sequence) -> None:
        self._shares.enter(seq, self.running)
        self._line_up(seq)

    def charge(self) -> None:
        """Count what was computed since the last time to those for whom it was."""
        for seq in self.running:
            self._shares.charge(seq)

    def admit(self) -> Iterator[tuple[Sequence, int | None]]:
        """Give free slots to whose turn it is; yields each as soon as it has it.

        With it comes the slot that it had before and has outgrown: its state is still there. The longest
        slots are given out first, so that those left for them are free for others at once.
        """
        outgrown = self.outgrown()
        for number in reversed(range(len(self._lines))):
            line = self._lines[number]
            movers = [seq for seq in outgrown if self.slots.class_for(seq) == number]
            while (line or movers) and self.slots.has_free(number):
                seq = min(chain(line.heads, movers), key=self._turn)
                left = seq.slot
                self.slots.acquire(seq, number)
                if left is None:
                    line.remove(seq)
                    seq.starts_at = self._start_of(seq)
                    self._last_started[seq.tenant] = seq
                    self._shares.charge(seq)
                    self.running.append(seq)
                else:
                    movers.remove(seq)
                yield seq, left

    def next_to_give_way(self) -> Sequence | None:
        """Who gives its slot to one that waits for such a one; None: all keep theirs.

        Of the tenant that has had the most, the one that was admitted last. Only if it has had more than the
        one that waits, and then still holds no fewer slots for its priority: so no two take turns at it.
        """
        for number, line in enumerate(self._lines if self._shares.are_several else ()):
            if not line or self.slots.has_free(number):
                continue
            first = min(line.heads, key=self._turn)
            present = [seq for seq in self.running if seq.slot_class == number]
            num_held = Counter(seq.tenant for seq in present)
            least, wanted = self._shares.level(first.tenant), (num_held[first.tenant] + 1) / first.priority
            rich = [
                seq
                for seq in present
                if self._shares.level(seq.tenant) > least and num_held[seq.tenant] / seq.priority > wanted
            ]
            movable = [seq for seq in reversed(rich) if seq.num_computed_tokens and seq.leader is None]
            if movable:
                return max(movable, key=lambda seq: self._shares.level(seq.tenant))
        return None

    def outgrown(self) -> list[Sequence]:
        """Those whose slots are full and who can't go on before they have a longer one, the oldest first."""
        return sorted((seq for seq in self.running if seq.has_outgrown_slot), key=arrival)

    def is_wanted(self, number: int) -> bool:
        """Whether somebody without a slot waits for one of this class."""
        return bool(self._lines[number])

    def park(self, seq: Sequence) -> int:
        """Put `seq` in line without its slot, which it has outgrown or gives to another; returns the slot."""
        slot = self._stop(seq)
        self._line_up(seq)
        return slot

    def find(self, request_id: int) -> Sequence | None:
        """The live sequence of a request."""
        for seq in (*self.running, *self.waiting):
            if seq.request_id == request_id:
                return seq
        return None

    def release(self, seq: Sequence) -> int | None:
        """Forget `seq`; returns the slot that it had, if it ran."""
        slot = None
        if seq.slot is None:
            self._lines[self.slots.class_for(seq)].remove(seq)
        else:
            self._shares.charge(seq)
            slot = self._stop(seq)
        self._shares.leave(seq)
        return slot

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

    def prefill(self, room: Room) -> list[Slice]:
        """Slices that fill `room`, in slot order; none only if nobody is in prefill.

        All of them are of one adapter, the first one's: a call computes with one adapter, and in slots of
        one class. A slice of an image is alone, and so is one that wants the logits of every token.
        """
        slices: list[Slice] = []
        for seq in self._prefill_order():
            size = room.fitting(seq.num_computed_tokens, seq.num_pending_tokens)
            if slices and (self._exact_slices or size == 0):
                break
            piece = Slice(seq, self._slice_size(seq, size))
            is_alone = piece.image is not None or piece.wants_all
            first = slices[0].seq if slices else seq
            if slices and ((seq.lora, seq.slot_class) != (first.lora, first.slot_class) or is_alone):
                continue
            slices.append(piece)
            if is_alone:
                break
            room.take(seq.num_computed_tokens, piece.size)
        position = {seq: place for place, seq in enumerate(self.slots)}
        return sorted(slices, key=lambda piece: position[piece.seq])

    def _prefill_order(self) -> list[Sequence]:
        """Who is in prefill and waits for nobody: in fair order, or the short ones first."""
        in_prefill = [seq for seq in self.running if seq.num_pending_tokens > 1 and seq.leader is None]
        in_prefill.sort(key=lambda seq: seq.starts_at)
        if len(in_prefill) < 2:
            return in_prefill
        is_turn, self._is_turn_of_short = self._is_turn_of_short, not self._is_turn_of_short
        if not is_turn:
            return in_prefill
        needs = self._needs()
        bound = needs[in_prefill[0]] / OVERTAKING
        return sorted(in_prefill, key=lambda seq: min(needs[seq], bound))

    def _line_up(self, seq: Sequence) -> None:
        self._lines[self.slots.class_for(seq)].add(seq)

    def _stop(self, seq: Sequence) -> int:
        """Take its slot, and return it."""
        self.running.remove(seq)
        if self._last_started.get(seq.tenant) is seq:
            del self._last_started[seq.tenant]
        return self.slots.release(seq)

    def _start_of(self, seq: Sequence) -> float:
        """What its tenant has had; not before the one of it that is in prefill, also if that cost less."""
        level, last = self._shares.level(seq.tenant), self._last_started.get(seq.tenant)
        return max(level, last.starts_at) if last is not None and last.num_pending_tokens > 1 else level

    def _turn(self, seq: Sequence) -> tuple[float, float]:
        return self._shares.level(seq.tenant), seq.arrived_at

    def _needs(self) -> dict[Sequence, int]:
        """Tokens to compute until the prompt is complete, or that of somebody who waits for it."""
        needs: dict[Sequence, int] = {}
        for seq in reversed(self.running):  # who waits was admitted later
            needs[seq] = min(seq.num_pending_tokens, needs.get(seq, seq.num_pending_tokens))
            if seq.leader is not None:
                until = needs[seq] - seq.leader.num_computed_tokens
                needs[seq.leader] = min(until, needs.get(seq.leader, until))
        return needs

    def _slice_size(self, seq: Sequence, most: int) -> int:
        """Up to `most`, the next fork point, and the next border of an image.

        Of an exact slice a rest of one token becomes part; an image that sees itself is not cut.
        """
        pending, computed = seq.num_alike_tokens, seq.num_computed_tokens
        span = seq.span_at(computed)
        if span is not None and span.tokens.sees_itself:
            return pending
        max_slice = min(self._max_slice, self._max_outputs) if seq.params.prompt_logprobs else self._max_slice
        size = min(pending, max(most, 2), max_slice)
        size = self._up_to_fork(seq, size)
        if self._exact_slices and pending - size == 1:
            return pending if pending <= max_slice else max(size - 1, 1)
        return size

    def _up_to_fork(self, seq: Sequence, size: int) -> int:
        """`size`, cut at the next fork point: no slice passes it, and none leaves a rest that is no slice."""
        least = 2 if self._exact_slices else 1
        ahead = [point - seq.num_computed_tokens for point in seq.fork_points]
        distance = min((tokens for tokens in ahead if tokens >= least), default=size)
        if size >= distance or distance - size >= least:
            return min(size, distance)
        return size - 1 if size > least else distance
