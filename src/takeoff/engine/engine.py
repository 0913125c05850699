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
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.arrival import arrived
from takeoff.engine.call_cost import Cost, guessed
from takeoff.engine.calls import decode_work, prefill_work, rows_of
from takeoff.engine.checkpoints import LONGEST_S, Checkpoints
from takeoff.engine.choice import Chooser, ended
from takeoff.engine.constraint import ConstraintState
from takeoff.engine.counters import Counters
from takeoff.engine.crowding import Crowding
from takeoff.engine.images import Prompt
from takeoff.engine.llama.rows import Kernels, Rows
from takeoff.engine.logprobs import of_prompt
from takeoff.engine.parking import Parking
from takeoff.engine.prefill_budget import PrefillBudget, Room
from takeoff.engine.prefix_sharing import PrefixSharing
from takeoff.engine.scheduler import Scheduler, Slice
from takeoff.engine.sequence import Sequence
from takeoff.engine.slots import Move
from takeoff.engine.speculation import Plan, Speculation
from takeoff.ipc.arena import Arena
from takeoff.ipc.beacon import Beacon
from takeoff.ipc.messages import Load, Submit
from takeoff.request import FinishReason, TokenEvent

logger = logging.getLogger(__name__)

KEPT_SCRATCH_BYTES = 64 << 20  # of what a move between slots goes through; more is given back
SCRATCH_TOKENS = 1024  # whose state fits in from the start: fresh pages take ten times as long as the copy

Deliver = Callable[[list[TokenEvent]], None]


class Engine:
    """Continuous batching over one set of kernels. One thread calls it."""

    def __init__(
        self,
        load: Load,
        kernels: Kernels,
        deliver: Deliver,
        clock: Callable[[], float] = time.perf_counter,
        beacon: Beacon | None = None,
    ) -> None:
        """`deliver` gets the news of every call, in order; `clock` says seconds; `beacon` tells of calls."""
        self._beacon = beacon or Beacon()
        self.counters = Counters()
        self.counters.set("gpu_layers", load.n_gpu_layers)
        self._load, self._clock = load, clock
        self.kernels = kernels
        self._deliver = deliver
        self._chooser = Chooser(kernels, self.counters)
        self._scheduler = Scheduler(
            tuple(kernels.slot_classes), max_slice=load.n_ubatch, exact_slices=load.deterministic
        )
        self._parking = Parking(self._scheduler, kernels, self.counters, load.parking_bytes)
        self.prefixes = PrefixSharing(
            self._scheduler,
            kernels,
            Arena(load.cache_bytes, load.arena_fd),
            self.counters,
            prompts_only=load.deterministic,
        )
        itl_slo_s = load.itl_slo_ms / 1e3 if load.itl_slo_ms else None
        self._checkpoints = Checkpoints(
            self._scheduler, self.prefixes, longest_s=itl_slo_s or LONGEST_S, clock=clock
        )
        self._speculation = Speculation(
            kernels, self.counters, load.num_outputs, is_on=load.speculation, itl_slo_s=itl_slo_s, clock=clock
        )
        self._crowding = Crowding(
            max(load.n_threads, load.n_threads_prefill),
            is_watched=not load.deterministic and not load.n_gpu_layers,
            clock=clock,
        )
        self._scratch: NDArray[np.uint8]
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
        """Queue a request; see `arrived`."""
        now, exact = self._clock(), self._load.deterministic
        self._scheduler.add(arrived(message, self.kernels, now, constraint, prompt, token_by_token=exact))

    def cancel(self, request_id: int) -> None:
        """End a request now, wherever it is; unknown ids have ended already."""
        seq = self._scheduler.find(request_id)
        if seq is not None:
            self._leave(seq)
            self._deliver([ended(seq, FinishReason.CANCELLED)])

    def step(self, on_decoded: Callable[[], None] = lambda: None) -> None:
        """Decode all that run, deliver, then prefill for as long as the streams can bear.

        `on_decoded` is called between the two, and may submit and cancel: whoever came during the decode
        needn't wait for the next one.
        """
        started = self._clock()
        decoding = self._compact()
        self._told_at = self._clock()
        if decoding:
            self._decode(decoding)
        on_decoded()
        self._admit()
        self._parking.make_room()
        for seq in self._scheduler.followers_to_wake():
            self.prefixes.adopt(seq)
        self._prefill()
        if self._load.arena_fd is not None:
            self._checkpoints.after_step(self._clock() - started)

    def _admit(self) -> None:
        """Give slots to whose turn it is: the free ones, then those of who has more than its share."""
        self._scheduler.charge()
        is_over = False
        while not is_over:
            for seq, left in self._scheduler.admit():
                if not self._parking.bring(seq, left):
                    seq.queue_s = self._clock() - seq.arrived_at
                    self.prefixes.adopt(seq)
            is_over = not self._parking.give_way()

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
        plans = self._speculation.plan(groups, self._room_left)
        work, started = decode_work(decoding), self._clock()
        for seqs, plan in zip(groups, plans, strict=True):
            if plan is not None:
                self._verify(seqs, plan)
                continue
            call_started = self._clock()
            with self.counters.timed("decode", tokens=len(seqs)):
                rows = [rows_of(Slice(seq, 1)) for seq in seqs]
                expected_s = self._budget.decode_s(decode_work(seqs))
                logits = self._forward(seqs, self._load.n_threads, expected_s, rows)
            for seq in seqs:
                seq.num_computed_tokens += 1
            self._advance(seqs, logits)
            self._speculation.learn_decode(seqs, self._clock() - call_started)
        self._told_at = self._clock()
        self._budget.learn_decode(
            work, self._told_at - started, has_drafts=any(plan is not None for plan in plans)
        )

    def _verify(self, seqs: list[Sequence], plan: Plan) -> None:
        """Decode with drafts."""
        expected_s = self._budget.decode_s(decode_work(seqs, plan.num_tokens))
        forward = partial(self._forward, seqs, self._load.n_threads, expected_s)
        self._deliver(self._speculation.verify(seqs, plan, forward, self._choose))

    def _room_left(self, seq: Sequence) -> int:
        """Tokens that one call may compute of a sequence that decodes."""
        may_come = seq.max_completion_tokens - seq.num_completion_tokens
        return min(may_come, seq.slot_tokens - seq.num_computed_tokens)

    def _prefill(self) -> None:
        room = self._prefill_room()
        while slices := self._scheduler.prefill(room):
            work = prefill_work(slices)
            started = self._clock()
            with self.counters.timed("prefill", tokens=work.tokens):
                rows, seqs = [rows_of(piece) for piece in slices], [piece.seq for piece in slices]
                expected_s = self._budget.prefill_s(work)
                logits = self._forward(seqs, self._load.n_threads_prefill, expected_s, rows)
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
        decoding = decode_work(self._scheduler.decoding())
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

    def _forward(
        self, seqs: list[Sequence], n_threads: int, expected_s: float, work: list[Rows]
    ) -> NDArray[np.float32]:
        """Compute `work`, some of each of `seqs`."""
        request_ids, limit_s = [seq.request_id for seq in seqs], self._crowding.expected_s(expected_s)
        with self._beacon.call(request_ids, limit_s), self._crowding.threads(n_threads, expected_s) as number:
            self.kernels.set_threads(number)
            return self.kernels.forward(work, seqs[0].lora)

    def _advance(self, seqs: list[Sequence], logits: NDArray[np.float32]) -> None:
        """Choose the next token of each, from `logits` [len(seqs), n_vocab], and tell the news."""
        events = self._choose(seqs, logits) if seqs else []
        news = [event for event in events if event.token_ids or event.finish_reason is not None]
        if news:
            self._deliver(news)

    def _choose(self, seqs: list[Sequence], logits: NDArray[np.float32]) -> list[TokenEvent]:
        """The same, but returns the news: whoever ends with its token has left already."""
        events = self._chooser.choose(seqs, logits)
        for seq, event in zip(seqs, events, strict=True):
            if event.finish_reason is FinishReason.FAILED:
                self._release(seq)
            elif event.finish_reason is not None:
                self._leave(seq)
        return events

    def _leave(self, seq: Sequence) -> None:
        """Free the slot of a sequence that has ended, and keep its prefix."""
        if seq.slot is not None:
            self.prefixes.keep(seq)
        self._release(seq)

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
        """Touch every weight once, and the scratch buffer; returns the budget's first guess."""
        token_ids = [self.kernels.eog_token_ids[0] if self.kernels.eog_token_ids else 0] * 32
        pos, seconds = 0, []
        for size in (2, 2, 32):
            started = self._clock()
            self.kernels.set_threads(self._load.n_threads_prefill)
            self.kernels.forward([Rows(0, pos, token_ids[:size], True)])
            seconds.append(self._clock() - started)
            pos += size
        num_bytes = self.kernels.snapshot_bytes(0) * SCRATCH_TOKENS // pos
        self._scratch = np.full(min(num_bytes, KEPT_SCRATCH_BYTES), 0, np.uint8)
        self.kernels.clear(0)
        return guessed((2, seconds[1]), (32, seconds[2]))
