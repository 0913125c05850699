"""Prompt-lookup speculation: what is easily guessed is computed together, and kept where it is right.

A call computes the last token of each sequence and a draft of what follows. Then the next token is sampled
behind each of them in turn, exactly as without a draft: with its own random number, penalties and
constraint. While it is the one in the draft, its successor's logits are there already; the first that
differs is the last that is kept, and the rest of the draft is trimmed from the slot. So a draft can't change
what is said, except through the rounding of kernels, which compute several rows of a sequence in other ways
than one. For the same reason a constraint goes on only by tokens that are kept: nothing is ever rolled back.

Whether it pays is decided in every step by measured costs and by how often such drafts were right. Nobody
pays for drafts, his own or his neighbours', more than a small share of his time: each sequence has a balance.

Source: Saxena 2023, "Prompt lookup decoding"; Leviathan et al. 2023, arXiv:2211.17192, for the principle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.counters import Counters
from takeoff.engine.drafts import Draft, Drafter, Trust
from takeoff.engine.llama.rows import Kernels, Rows
from takeoff.engine.sequence import Sequence
from takeoff.engine.step_costs import StepCosts
from takeoff.request import TokenEvent

LENGTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # tokens of each sequence that one call may compute
MARGIN = 1.05  # times as many tokens a second as without, at least: estimates err
MAX_CALL_S = 0.5  # for so long a cancellation may go unnoticed
MAX_READ_TOKENS = 2_048  # of each sequence in a step, a millisecond or two
DEBT_STEPS = 2.0  # that a sequence may lose by drafts from its beginning, in decode steps
DEBT_SHARE = 0.01  # and of the steps that it has had
MAX_BALANCE_STEPS = 16.0  # that gains of the past may pay for

Forward = Callable[[list[Rows]], NDArray[np.float32]]
Choose = Callable[[list[Sequence], NDArray[np.float32]], list[TokenEvent]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that verifies: the same number of draft tokens for each sequence, in their order."""

    drafts: list[list[int]]
    num_drafted: int  # tokens of them that are more than padding

    @property
    def num_tokens(self) -> int:
        """Tokens of each sequence that are computed."""
        return len(self.drafts[0]) + 1


class Speculation:
    """Decides whether and how much the sequences of a step verify, and keeps what was right."""

    def __init__(
        self,
        kernels: Kernels,
        counters: Counters,
        n_outputs: int,
        *,
        is_on: bool,
        itl_slo_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        """`n_outputs`: rows of logits that one call may give; `itl_slo_s`: how long one may take at most."""
        self._clock = clock
        self._kernels = kernels
        self._counters = counters
        self._n_outputs = n_outputs
        self._is_on = is_on and kernels.can_trim
        self._max_call_s = MAX_CALL_S if itl_slo_s is None else itl_slo_s
        self._costs = StepCosts()
        self._trust = Trust()

    def plan(self, seqs: list[Sequence], rooms: list[int]) -> Plan | None:
        """Drafts for all that decode now; None: they decode without. `rooms`: tokens that fit, of each."""
        lengths = self._lengths(len(seqs), min(rooms)) if self._is_on else []
        if not lengths:
            return None
        drafts = [self._draft(seq, lengths[-1] - 1) for seq in seqs]
        if not any(draft.token_ids for draft in drafts):
            return None
        expected = [draft.expected_tokens(lengths[-1] - 1) for draft in drafts]  # by length - 1
        costs = {length: self._costs.ratio(len(seqs), length) for length in lengths}
        best = max(lengths, key=lambda length: sum(each[length - 1] for each in expected) / costs[length])
        if sum(each[best - 1] for each in expected) < MARGIN * len(seqs) * costs[best]:
            return None
        gains = [each[best - 1] - costs[best] for each in expected]
        if not all(map(_can_bear, seqs, gains)):
            return None
        padded = [
            [*draft.token_ids, *[seq.token_ids[-1]] * best][: best - 1]
            for seq, draft in zip(seqs, drafts, strict=True)
        ]
        return Plan(padded, sum(min(len(draft.token_ids), best - 1) for draft in drafts))

    def verify(self, seqs: list[Sequence], plan: Plan, forward: Forward, choose: Choose) -> list[TokenEvent]:
        """Compute the drafts of a plan and choose tokens for each sequence until one is not in its draft.

        `choose` makes one token of a row of logits part of each sequence and says what became of it.

        Returns:
            The events, those of each sequence in order.
        """
        started = self._clock()
        lengths_before = [seq.num_computed_tokens for seq in seqs]
        with self._counters.timed("verify", tokens=len(seqs) * plan.num_tokens):
            logits = forward([_rows(seq, draft) for seq, draft in zip(seqs, plan.drafts, strict=True)])
        events = self._keep(seqs, plan, logits.reshape(len(seqs), plan.num_tokens, -1), choose)
        for seq in seqs:
            if seq.slot is not None:
                self._kernels.trim(seq.slot, seq.num_computed_tokens)
        self._counters.add("drafted_tokens", plan.num_drafted)
        self._counters.add("accepted_draft_tokens", len(events) - len(seqs))
        seconds = self._clock() - started
        decode_s = self._costs.learn(len(seqs), plan.num_tokens, seconds)
        for seq, before in zip(seqs, lengths_before, strict=True):
            gain = seq.num_computed_tokens - before - seconds / decode_s
            seq.balance_steps = min(seq.balance_steps + gain, MAX_BALANCE_STEPS)
        return events

    def learn_decode(self, num_seqs: int, seconds: float) -> None:
        """A step without drafts took so long, the choice of the tokens included."""
        if self._is_on:
            self._costs.learn_decode(num_seqs, seconds)

    def _lengths(self, num_seqs: int, room: int) -> list[int]:
        """Tokens of each that a call could compute with a gain, if all drafts were right."""
        decode_s = self._costs.decode_s(num_seqs)
        if decode_s is None:
            return []
        most = min(self._n_outputs // num_seqs, room)
        costs = {length: self._costs.ratio(num_seqs, length) for length in LENGTHS if length <= most}
        return [
            length
            for length, cost in costs.items()
            if length >= MARGIN * cost and cost * decode_s <= self._max_call_s
        ]

    def _draft(self, seq: Sequence, most: int) -> Draft:
        if seq.drafter is None:
            seq.drafter = Drafter(seq.num_prompt_tokens, self._trust, seq.predicted_token_ids)
        if not seq.drafter.read(seq.token_ids, MAX_READ_TOKENS):
            return Draft([], [])
        constraint = seq.sampling.constraint
        forced = [] if constraint is None else constraint.forced()
        return seq.drafter.propose(most, forced)

    def _keep(
        self, seqs: list[Sequence], plan: Plan, logits: NDArray[np.float32], choose: Choose
    ) -> list[TokenEvent]:
        """`logits`: [len(seqs), plan.num_tokens, n_vocab]."""
        events: list[TokenEvent] = []
        going = list(range(len(seqs)))
        for place in range(plan.num_tokens):
            for index in going:
                seqs[index].num_computed_tokens += 1
            rows = logits[:, place] if len(going) == len(seqs) else logits[going, place]
            chosen = choose([seqs[index] for index in going], rows)
            events += chosen
            going = [
                index
                for index, event in zip(going, chosen, strict=True)
                if event.finish_reason is None and [*event.token_ids] == plan.drafts[index][place : place + 1]
            ]
            if not going:
                break
        return events


def _can_bear(seq: Sequence, gain: float) -> bool:
    """Whether a step may be taken that is expected to save `seq` so many decode steps, or to cost them."""
    most = DEBT_STEPS + DEBT_SHARE * seq.num_completion_tokens
    return seq.balance_steps + min(gain, 0.0) >= -most


def _rows(seq: Sequence, draft: list[int]) -> Rows:
    assert seq.slot is not None, "only running sequences decode"
    return Rows(seq.slot, seq.num_computed_tokens, [seq.token_ids[-1], *draft], True, wants_all=True)
