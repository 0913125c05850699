"""Prompt-lookup speculation: what is easily guessed is computed together, and kept where it is right.

A call computes the last token of each sequence and a draft of what follows. Then the next token is sampled
behind each of them in turn, exactly as without a draft: with its own random number, penalties and
constraint. While it is the one in the draft, its successor's logits are there already; the first that
differs is the last that is kept, and the rest of the draft is trimmed from the slot. So a draft can't change
what is said, except through the rounding of kernels, which compute several rows of a sequence in other ways
than one. For the same reason a constraint goes on only by tokens that are kept: nothing is ever rolled back.

Whether it pays is decided in every step by measured costs and by how often such drafts were right. Nobody
pays for drafts, his own or his neighbours', more than a small share of his time: each sequence has a balance.
Neighbours are all that decode in the same step, in whichever call: one in a slot of another size, or with
another adapter, waits for the step's other calls as well.

Source: Saxena 2023, "Prompt lookup decoding"; Leviathan et al. 2023, arXiv:2211.17192, for the principle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.counters import Counters
from takeoff.engine.drafts import Draft, Drafter, Trust
from takeoff.engine.llama.rows import Kernels, Rows
from takeoff.engine.sequence import Sequence
from takeoff.engine.step_costs import StepCosts
from takeoff.request import TokenEvent

LENGTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # tokens of each sequence that one call may compute
MARGIN = 1.15  # times as many tokens a second as without, at least: drafts come in bursts, and estimates err
MAX_CALL_S = 0.5  # for so long a cancellation may go unnoticed
MAX_READ_TOKENS = 2_048  # of each sequence in a step, a millisecond or two
DEBT_STEPS = 2.0  # that a sequence may lose by drafts from its beginning, in decode steps
DEBT_SHARE = 0.01  # and of the steps that it has had
MAX_BALANCE_STEPS = 16.0  # that gains of the past may pay for

Room = Callable[[Sequence], int]  # tokens that one call may compute of a sequence
Forward = Callable[[list[Rows]], NDArray[np.float32]]
Choose = Callable[[list[Sequence], NDArray[np.float32]], list[TokenEvent]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that verifies: the same number of draft tokens for each sequence, in their order."""

    drafts: list[list[int]]
    num_drafted: int  # tokens of them that are more than padding
    predicted: list[range]  # places of those that the client predicted, in each draft
    others: list[Sequence]  # that decode in other calls of the step
    others_s: float  # that those calls are expected to take without drafts

    @property
    def num_tokens(self) -> int:
        """Tokens of each sequence that are computed."""
        return len(self.drafts[0]) + 1


@dataclass(frozen=True, slots=True)
class _Offer:
    """What drafts of one length would bring to the sequences of a call, and what they would cost."""

    drafts: list[Draft]
    length: int  # tokens of each sequence that are computed
    expected: list[float]  # tokens that each is expected to gain
    decode_s: float  # of the call without drafts
    cost: float  # of the call with them, in calls without

    @property
    def extra_s(self) -> float:
        return (self.cost - 1.0) * self.decode_s

    @property
    def gain(self) -> float:
        """Times as many tokens a second as without."""
        return sum(self.expected) / len(self.expected) / self.cost


class Speculation:
    """Decides whether and how much the calls of a step verify, and keeps what was right."""

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
        # Attention to longer texts, and adapters, cost more: each kind of call has its own costs.
        self._costs: defaultdict[tuple[int, str | None], StepCosts] = defaultdict(StepCosts)
        # Of each tenant: the pace of one must not tell whether texts of another repeat themselves.
        self._trusts: defaultdict[str, Trust] = defaultdict(Trust)

    def plan(self, calls: list[list[Sequence]], room: Room) -> list[Plan | None]:
        """Drafts for the sequences of each call of a step; None: that call computes one token of each."""
        without: list[Plan | None] = [None] * len(calls)
        if not self._is_on:
            return without
        seconds = [self._costs[_kind(seqs)].decode_s(len(seqs)) for seqs in calls]
        plain_s = [each for each in seconds if each is not None]
        if len(plain_s) < len(calls):
            return without
        offers = [
            self._offer(seqs, min(map(room, seqs)), decode_s)
            for seqs, decode_s in zip(calls, plain_s, strict=True)
        ]
        while made := [offer for offer in offers if offer is not None]:
            if self._pays(calls, offers, sum(plain_s)):
                break
            weakest = min(made, key=lambda offer: offer.gain)
            offers = [None if offer is weakest else offer for offer in offers]
        return [
            None if offer is None else _plan(calls, seqs, offer, sum(plain_s) - offer.decode_s)
            for seqs, offer in zip(calls, offers, strict=True)
        ]

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
        events = _with_predictions(events, seqs, plan)
        self._counters.add("drafted_tokens", plan.num_drafted)
        self._counters.add("accepted_draft_tokens", len(events) - len(seqs))
        seconds = self._clock() - started
        decode_s = self._costs[_kind(seqs)].learn(len(seqs), plan.num_tokens, seconds)
        lost = (seconds - decode_s) / (decode_s + plan.others_s)
        for seq, before in zip(seqs, lengths_before, strict=True):
            _settle(seq, seq.num_computed_tokens - before - 1 - lost)
        for seq in plan.others:
            _settle(seq, -lost)
        return events

    def learn_decode(self, seqs: list[Sequence], seconds: float) -> None:
        """A call without drafts took so long, the choice of the tokens included."""
        if self._is_on:
            self._costs[_kind(seqs)].learn_decode(len(seqs), seconds)

    def _offer(self, seqs: list[Sequence], room: int, decode_s: float) -> _Offer | None:
        """The drafts that pay best for the sequences of a call; None: none do. `room`: of each."""
        ratios = self._costs[_kind(seqs)]
        lengths = self._lengths(ratios, len(seqs), room, decode_s)
        if not lengths:
            return None
        drafts = [self._draft(seq, lengths[-1] - 1) for seq in seqs]
        if not any(draft.token_ids for draft in drafts):
            return None
        expected = [draft.expected_tokens(lengths[-1] - 1) for draft in drafts]  # by length - 1
        offers = (
            _Offer(
                drafts,
                length,
                [each[length - 1] for each in expected],
                decode_s,
                ratios.ratio(len(seqs), length),
            )
            for length in lengths
        )
        best = max(offers, key=lambda offer: offer.gain)
        return best if best.gain >= MARGIN else None

    def _pays(self, calls: list[list[Sequence]], offers: list[_Offer | None], plain_s: float) -> bool:
        """Whether a step with these drafts is short enough, worth it, and bearable for each in it.

        `plain_s`: what it takes without.
        """
        extra_s = sum(offer.extra_s for offer in offers if offer is not None)
        gains = [
            (seq, tokens - 1.0)
            for seqs, offer in zip(calls, offers, strict=True)
            for seq, tokens in zip(seqs, [1.0] * len(seqs) if offer is None else offer.expected, strict=True)
        ]
        lost = extra_s / plain_s
        return (
            plain_s + extra_s <= self._max_call_s
            and len(gains) + sum(gain for _, gain in gains) >= MARGIN * len(gains) * (1.0 + lost)
            and all(_can_bear(seq, gain - lost) for seq, gain in gains)
        )

    def _lengths(self, ratios: StepCosts, num_seqs: int, room: int, decode_s: float) -> list[int]:
        """Tokens of each that a call could compute with a gain, if all drafts were right."""
        most = min(self._n_outputs // num_seqs, room)
        costs = {length: ratios.ratio(num_seqs, length) for length in LENGTHS if length <= most}
        return [
            length
            for length, cost in costs.items()
            if length >= MARGIN * cost and cost * decode_s <= self._max_call_s
        ]

    def _draft(self, seq: Sequence, most: int) -> Draft:
        if seq.drafter is None:
            seq.drafter = Drafter(seq.num_prompt_tokens, self._trusts[seq.tenant], seq.predicted_token_ids)
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


def _plan(calls: list[list[Sequence]], seqs: list[Sequence], offer: _Offer, others_s: float) -> Plan:
    most = offer.length - 1
    padded = [
        [*draft.token_ids, *[seq.token_ids[-1]] * most][:most]
        for seq, draft in zip(seqs, offer.drafts, strict=True)
    ]
    num_drafted = sum(min(len(draft.token_ids), most) for draft in offer.drafts)
    others = [seq for other in calls if other is not seqs for seq in other]
    predicted = [
        range(len(draft.token_ids) - draft.num_predicted, min(len(draft.token_ids), most))
        for draft in offer.drafts
    ]
    return Plan(padded, num_drafted, predicted, others, others_s)


def _with_predictions(events: list[TokenEvent], seqs: list[Sequence], plan: Plan) -> list[TokenEvent]:
    """The events of a call; the last of each sequence tells what became of its prediction."""
    if not any(plan.predicted):
        return events
    told = list(events)
    for seq, draft, predicted in zip(seqs, plan.drafts, plan.predicted, strict=True):
        places = [place for place, event in enumerate(events) if event.request_id == seq.request_id]
        right = sum(
            events[place].token_ids == (draft[number],)
            for number, place in enumerate(places)
            if number in predicted
        )
        told[places[-1]] = replace(
            events[places[-1]],
            accepted_prediction_tokens=right,
            rejected_prediction_tokens=len(predicted) - right,
        )
    return told


def _kind(seqs: list[Sequence]) -> tuple[int, str | None]:
    """What the sequences of a call have in common."""
    return seqs[0].slot_class, seqs[0].lora


def _settle(seq: Sequence, gain: float) -> None:
    """Note how many decode steps a step with drafts has saved `seq`, or cost it."""
    seq.balance_steps = min(seq.balance_steps + gain, MAX_BALANCE_STEPS)


def _can_bear(seq: Sequence, gain: float) -> bool:
    """Whether a step may be taken that is expected to save `seq` so many decode steps, or to cost them."""
    most = DEBT_STEPS + DEBT_SHARE * seq.num_completion_tokens
    return seq.balance_steps + min(gain, 0.0) >= -most


def _rows(seq: Sequence, draft: list[int]) -> Rows:
    assert seq.slot is not None, "only running sequences decode"
    return Rows(seq.slot, seq.num_computed_tokens, [seq.token_ids[-1], *draft], True, wants_all=True)
