"""The step: one call that decodes every running sequence, one that prefills, and what lies between.

Adapters belong to a context of llama.cpp, not to a sequence, so the sequences of each adapter are
decoded in a call of their own, once in every step; so are those without. Slots of another size are
another context, and so another call, too. A prefill call is of sequences of one adapter, in slots of one
size.

Owns the sequences, the kernels and the prefix cache; knows no sockets, processes or other threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.call_cost import Cost, Work, guessed
from takeoff.engine.constraint import ConstraintState
from takeoff.engine.counters import Counters
from takeoff.engine.images import Prompt
from takeoff.engine.llama.rows import Kernels, Rows
from takeoff.engine.logprobs import OwnLogprobs, of_prompt
from takeoff.engine.parking import Parking
from takeoff.engine.prefill_budget import PrefillBudget, Room
from takeoff.engine.prefix_cache import Scope
from takeoff.engine.prefix_sharing import PrefixSharing
from takeoff.engine.sampler import Sampler, SamplingState
from takeoff.engine.scheduler import Scheduler, Slice
from takeoff.engine.sequence import Sequence
from takeoff.engine.slots import Move
from takeoff.engine.speculation import Speculation
from takeoff.engine.text_stream import TextStream
from takeoff.errors import EngineFailed
from takeoff.ipc.arena import Arena
from takeoff.ipc.messages import Load, Submit
from takeoff.request import FinishReason, SamplingParams, TokenEvent, TokenLogprob, TokenLogprobs

logger = logging.getLogger(__name__)

KEPT_SCRATCH_BYTES = 64 << 20  # of what a move between slots goes through; more is given back

Deliver = Callable[[list[TokenEvent]], None]


class Engine:
    """Continuous batching over one set of kernels. One thread calls it."""

    def __init__(
        self, load: Load, kernels: Kernels, deliver: Deliver, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`deliver` is called with the news of every call, in order; `clock` tells seconds."""
        self.counters = Counters()
        self._load, self._clock = load, clock
        self.kernels = kernels
        self._deliver = deliver
        self._sampler = Sampler(kernels.n_vocab, kernels.eog_token_ids)
        self._eog = frozenset(kernels.eog_token_ids)
        self._scheduler = Scheduler(
            tuple(kernels.slot_classes), max_slice=load.n_ubatch, exact_slices=load.deterministic
        )
        self._parking = Parking(self._scheduler, kernels, self.counters, load.parking_bytes)
        self.prefixes = PrefixSharing(
            self._scheduler, kernels, Arena(load.cache_bytes), self.counters, prompts_only=load.deterministic
        )
        self._scratch = np.empty(0, np.uint8)
        itl_slo_s = load.itl_slo_ms / 1e3 if load.itl_slo_ms else None
        self._speculation = Speculation(
            kernels, self.counters, load.num_outputs, is_on=load.speculation, itl_slo_s=itl_slo_s, clock=clock
        )
        self._budget = PrefillBudget(itl_slo_s=itl_slo_s, guess=self._warm_up())
        self._told_at = 0.0  # when the streams got their last tokens, by the clock

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    @property
    def is_idle(self) -> bool:
        return not self._scheduler.running and not self._scheduler.num_waiting

    def submit(
        self, message: Submit, constraint: ConstraintState | None = None, prompt: Prompt | None = None
    ) -> None:
        """Queue a request. What was emitted before counts as said: it is computed, not sent again.

        `constraint` is its grammar, compiled; `prompt` has its images in it.
        """
        params = message.sampling
        prompt = prompt or Prompt(message.prompt_token_ids)
        words = prompt.token_ids
        if prompt.spans:  # penalties count no image
            words = [token_id for token_id in words if token_id >= 0]
        if constraint is not None:
            constraint.room = self._room(params, len(prompt.token_ids))
        sampling = SamplingState(params, words, self.kernels.n_vocab, constraint)
        controls = {} if message.thought is None else message.thought.control_texts
        accepts = None if constraint is None else partial(constraint.accepts, controls=controls)
        piece = showing(controls, self.kernels.piece) if controls else self.kernels.piece
        text = TextStream(piece, params.stop, params.stop_tokens, accepts)
        for token_id in message.emitted_token_ids:
            text.push(token_id, may_stop=sampling.num_completion_tokens + 1 >= params.min_new_tokens)
            sampling.append(token_id)
        self._scheduler.add(
            Sequence(
                request_id=message.request_id,
                scope=Scope(message.tenant, message.lora),
                params=params,
                token_ids=[*prompt.token_ids, *message.emitted_token_ids],
                num_prompt_tokens=len(prompt.token_ids),
                spans=prompt.spans,
                sampling=sampling,
                text=text,
                arrived_at=self._clock(),
                predicted_token_ids=message.predicted_token_ids,
            )
        )

    def cancel(self, request_id: int) -> None:
        """End a request now, wherever it is; unknown ids have ended already."""
        seq = self._scheduler.find(request_id)
        if seq is not None:
            self._deliver([self._end(seq, FinishReason.CANCELLED)])

    def fail_running(self, error: str) -> None:
        """End every sequence that has a slot: after a failed call nobody knows what the slots hold."""
        events = []
        for seq in list(self._scheduler.running):
            events.append(
                TokenEvent(request_id=seq.request_id, finish_reason=FinishReason.FAILED, error=error)
            )
            self._release(seq)
        self._deliver(events)

    def step(self, on_decoded: Callable[[], None] = lambda: None) -> None:
        """Decode all that run, deliver, then prefill for as long as the streams can bear.

        `on_decoded` is called between the two, and may submit and cancel: whoever came during the decode
        needn't wait for the next one.
        """
        decoding = self._compact()
        self._told_at = self._clock()
        if decoding:
            self._decode(decoding)
        on_decoded()
        for seq, left in self._scheduler.admit():
            if not self._parking.bring(seq, left):
                seq.queue_s = self._clock() - seq.arrived_at
                self.prefixes.adopt(seq)
        self._parking.make_room()
        for seq in self._scheduler.followers_to_wake():
            self.prefixes.adopt(seq)
        self._prefill()

    def _compact(self) -> list[Sequence]:
        """Make those that decode own the lowest slots of their class, adapter by adapter; returns them so."""
        while (move := self._scheduler.slots.next_move()) is not None:
            with self.counters.timed("move"):
                self._exchange(move)
            self._scheduler.slots.apply(move)
        return self._scheduler.decoding()

    def _exchange(self, move: Move) -> None:
        """Swap the states of two slots, by way of snapshots."""
        displaced = move.displaced
        leaving = self._save(displaced).copy() if displaced and displaced.num_computed_tokens else None
        self.kernels.restore(move.target, self._save(move.sequence))
        if leaving is None:
            self.kernels.clear(move.source)
        else:
            self.kernels.restore(move.source, leaving)

    def _decode(self, decoding: list[Sequence]) -> None:
        groups = [list(group) for _, group in groupby(decoding, key=lambda seq: (seq.slot_class, seq.lora))]
        if len(groups) == 1 and self._verify(groups[0]):
            self._told_at = self._clock()
            return
        work, started = _decode_work(decoding), self._clock()
        for seqs in groups:
            call_started = self._clock()
            with self.counters.timed("decode", tokens=len(seqs)):
                rows = [_rows(Slice(seq, 1)) for seq in seqs]
                logits = self._forward(rows, self._load.n_threads, seqs[0].lora)
            for seq in seqs:
                seq.num_computed_tokens += 1
            self._advance(seqs, logits)
            self._speculation.learn_decode(len(seqs), self._clock() - call_started)
        self._told_at = self._clock()
        self._budget.learn_decode(work, self._told_at - started)

    def _verify(self, seqs: list[Sequence]) -> bool:
        """Decode with drafts, if that pays; returns whether it was done."""
        plan = self._speculation.plan(seqs, [self._room_left(seq) for seq in seqs])
        if plan is None:
            return False
        forward = partial(self._forward, n_threads=self._load.n_threads, lora=seqs[0].lora)
        self._deliver(self._speculation.verify(seqs, plan, forward, self._choose))
        return True

    def _room_left(self, seq: Sequence) -> int:
        """Tokens that one call may compute of a sequence that decodes."""
        may_come = self._room(seq.params, seq.num_prompt_tokens) - seq.num_completion_tokens
        return min(may_come, seq.slot_tokens - seq.num_computed_tokens)

    def _prefill(self) -> None:
        room = self._prefill_room()
        while slices := self._scheduler.prefill(room):
            work = Work.of((piece.seq.num_computed_tokens, piece.size) for piece in slices)
            started = self._clock()
            with self.counters.timed("prefill", tokens=work.tokens):
                rows = [_rows(piece) for piece in slices]
                logits = self._forward(rows, self._load.n_threads_prefill, slices[0].seq.lora)
            if slices[0].wants_all:  # takes more for a token, and is rare: nothing to learn from
                logits = self._note_prompt(slices[0], logits)
            else:
                self._budget.learn_prefill(work, self._clock() - started)
            completed = [piece.seq for piece in slices if piece.completes_prompt]
            for piece in slices:
                piece.seq.num_computed_tokens += piece.size
                self.prefixes.keep_fork_point(piece.seq)
            self._advance(completed, logits)
            room = self._prefill_room()
            if room.seconds <= 0.0 or not self._load.deterministic:
                return

    def _prefill_room(self) -> Room:
        """What the next prefill call may take."""
        spent_s = self._clock() - self._told_at
        max_tokens = self._load.n_batch - self._load.n_slots
        decoding = _decode_work(self._scheduler.decoding())
        return self._budget.room(decoding, spent_s=spent_s, max_tokens=max_tokens)

    def _note_prompt(self, piece: Slice, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep what the model says of the prompt's tokens that follow those of a slice.

        Returns:
            [0 or 1, n_vocab]: what is left to choose a token from, if the slice completes the prompt.
        """
        seq = piece.seq
        start = seq.num_computed_tokens + 1
        following = seq.token_ids[start : min(start + piece.size, seq.num_prompt_tokens)]
        seq.prompt_logprobs += of_prompt(logits, following, seq.params.logprobs or 0, self.kernels.piece)
        return logits[-1:] if piece.completes_prompt else logits[:0]

    def _forward(self, work: list[Rows], n_threads: int, lora: str | None = None) -> NDArray[np.float32]:
        self.kernels.set_threads(n_threads)
        return self.kernels.forward(work, lora)

    def _advance(self, seqs: list[Sequence], logits: NDArray[np.float32]) -> None:
        """Choose the next token of each, from `logits` [len(seqs), n_vocab], and tell the news."""
        if seqs:
            self._deliver(self._choose(seqs, logits))

    def _choose(self, seqs: list[Sequence], logits: NDArray[np.float32]) -> list[TokenEvent]:
        """Choose the next token of each, from `logits` [len(seqs), n_vocab]; returns the news."""
        with self.counters.timed("sample", tokens=len(seqs)):
            asked = [row for row, seq in enumerate(seqs) if seq.params.logprobs is not None]
            most = max((seqs[row].params.logprobs or 0 for row in asked), default=0)
            own = OwnLogprobs(logits[asked], most, self.kernels.piece) if asked else None  # of a copy
            chosen = self._sampler.sample(logits, [seq.sampling for seq in seqs])
            events = [self._accept(seq, token_id) for seq, token_id in zip(seqs, chosen, strict=True)]
            if own is not None:
                for place, row in enumerate(asked):
                    events[row] = self._with_logprobs(events[row], seqs[row], own, place)
        return events

    def _accept(self, seq: Sequence, token_id: int | None) -> TokenEvent:
        """Append a token to its sequence and say what it means for the client."""
        if token_id is None:
            return self._end(seq, FinishReason.FAILED, error=_dead_end(seq))
        may_stop = seq.num_completion_tokens + 1 >= seq.params.min_new_tokens
        seq.token_ids.append(token_id)
        seq.sampling.append(token_id)
        if token_id in self._eog:
            return self._end(seq, _end_of(seq), (token_id,), seq.text.flush())
        text, stopped = seq.text.push(token_id, may_stop=may_stop)
        if stopped:
            return self._end(seq, FinishReason.STOP, (token_id,), text)
        constraint = seq.sampling.constraint
        if constraint is not None and constraint.is_finished:
            return self._end(seq, _end_of(seq), (token_id,), text + seq.text.flush())
        if self._is_full(seq):
            return self._end(seq, FinishReason.LENGTH, (token_id,), text + seq.text.flush())
        return _event(seq, (token_id,), text)

    def _with_logprobs(self, event: TokenEvent, seq: Sequence, own: OwnLogprobs, row: int) -> TokenEvent:
        """`event` with what the model says of its token, and of the prompt's before the first."""
        told = [own.of(row, token_id, seq.params.logprobs or 0) for token_id in event.token_ids]
        if seq.params.prompt_logprobs and seq.num_completion_tokens == 1:
            first = seq.token_ids[0]
            nothing_before = TokenLogprobs(TokenLogprob(first, self.kernels.piece(first), None))
            told = [nothing_before, *seq.prompt_logprobs, *told]
            seq.prompt_logprobs = []
        return replace(event, logprobs=tuple(told))

    def _is_full(self, seq: Sequence) -> bool:
        return seq.num_completion_tokens >= self._room(seq.params, seq.num_prompt_tokens)

    def _room(self, params: SamplingParams, num_prompt_tokens: int) -> int:
        """Tokens that a completion may have. Of the last one no successor is computed: it needs no cell."""
        in_context = self.kernels.n_ctx_slot + 1 - num_prompt_tokens
        return in_context if params.max_new_tokens is None else min(params.max_new_tokens, in_context)

    def _end(
        self,
        seq: Sequence,
        reason: FinishReason,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        error: str | None = None,
    ) -> TokenEvent:
        """The one terminal event of a sequence; its slot is free afterwards, its prefix is kept."""
        if seq.slot is not None and reason is not FinishReason.FAILED:
            self.prefixes.keep(seq)
        self._release(seq)
        event = _event(seq, token_ids, text)
        return replace(event, finish_reason=reason, stop_string=seq.text.stop_string, error=error)

    def _release(self, seq: Sequence) -> None:
        slot = self._scheduler.release(seq)
        if slot is not None:
            self.kernels.clear(slot)

    def _save(self, seq: Sequence) -> NDArray[np.uint8]:
        """The state of a sequence in the scratch buffer, valid until the next call."""
        assert seq.slot is not None
        size = self.kernels.snapshot_bytes(seq.slot)
        scratch = self._scratch if size <= len(self._scratch) else np.empty(size, np.uint8)
        if size <= KEPT_SCRATCH_BYTES:
            self._scratch = scratch
        return scratch[: self.kernels.save(seq.slot, scratch)]

    def _warm_up(self) -> Cost:
        """Touch every weight once; returns the budget's first guess."""
        token_ids = [self.kernels.eog_token_ids[0] if self.kernels.eog_token_ids else 0] * 32
        pos, seconds = 0, []
        for size in (2, 2, 32):
            started = self._clock()
            self._forward([Rows(0, pos, token_ids[:size], True)], self._load.n_threads_prefill)
            seconds.append(self._clock() - started)
            pos += size
        self.kernels.clear(0)
        return guessed((2, seconds[1]), (32, seconds[2]))


def _decode_work(decoding: list[Sequence]) -> Work:
    """What it takes to decode one token of each."""
    num_calls = len({(seq.slot_class, seq.lora) for seq in decoding})
    return Work.of(((seq.num_computed_tokens, 1) for seq in decoding), num_calls)


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


def showing(texts: dict[int, str], piece: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """`piece`, but of some control tokens their text."""
    shown = {token_id: text.encode() for token_id, text in texts.items()}
    return lambda token_id: shown.get(token_id) or piece(token_id)


def _rows(piece: Slice) -> Rows:
    seq = piece.seq
    if seq.slot is None:
        raise EngineFailed(f"request {seq.request_id} was planned without a slot")
    start = seq.num_computed_tokens
    token_ids = seq.token_ids[start : start + piece.size]
    return Rows(seq.slot, start, token_ids, piece.completes_prompt, piece.image, piece.wants_all)
