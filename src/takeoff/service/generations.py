"""The open generations: accepted, told their tokens, ended once."""

from __future__ import annotations

import asyncio
import time

from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import Cancel, ImagesRead, Submit
from takeoff.observe.metrics import Metrics
from takeoff.request import FinishReason, Request, TokenEvent
from takeoff.service.admission import Admission, Party
from takeoff.service.engine_watch import Death
from takeoff.service.generation import Generation, MakeGeneration
from takeoff.service.journal import Entry, Journal
from takeoff.service.promise import check_deadline
from takeoff.service.reader import Reader
from takeoff.service.tally import Tally

_WHOLE = (FinishReason.STOP, FinishReason.LENGTH)


class Generations:
    """Between the engines' events and the `Generation`s that wait for them."""

    def __init__(self, admission: Admission, tally: Tally, metrics: Metrics) -> None:
        self._journal = Journal()
        self._admission = admission
        self._tally = tally
        self._metrics = metrics

    def accept(
        self,
        request: Request,
        submit: Submit,
        reader: Reader,
        arrived_at: float,
        make: MakeGeneration = Generation,
    ) -> Generation:
        """Journal a request and submit it. Nothing is awaited: it is accepted or it is not.

        It ends the request's `deadline_s` after `arrived_at`, which is monotonic, if it hasn't before.

        Raises:
            Overloaded: it has no room in the queue, or can't end in time.
        """
        num_tokens, wanted = len(submit.prompt_token_ids), request.sampling.max_new_tokens
        party = Party.of(request)
        queued_tokens = self._admission.tokens_of(num_tokens, wanted, reader.n_ctx_slot - num_tokens)
        left_s = None if request.deadline_s is None else arrived_at + request.deadline_s - time.monotonic()
        if left_s is not None:
            check_deadline(
                request,
                reader,
                self._journal.entries(reader),
                prompt=num_tokens,
                usual_completion=round(self._admission.usual_completion),
                left_s=left_s,
            )
        self._admission.enqueue(party, queued_tokens)
        generation = make(submit.request_id, num_tokens, self._end, submit.thought)
        generation.reader_id = reader.reader_id
        entry = Entry(submit, reader, generation, arrived_at, party, queued_tokens)
        entry.emitted_token_ids += submit.emitted_token_ids
        if left_s is not None:
            loop = asyncio.get_running_loop()
            entry.deadline = loop.call_later(left_s, generation.end, FinishReason.DEADLINE)
        self._journal.accept(entry)
        self._tally.accept()
        reader.open_one()
        self._send(reader, reader.quarantine.add(submit.request_id))
        self._metrics.prompt_tokens.inc(num_tokens)
        self._metrics.queued_tokens.set(self._admission.queued_tokens)
        return generation

    def take(self, events: list[TokenEvent]) -> None:
        """The news of one step."""
        now = time.monotonic()
        for event in events:
            entry = self._journal.record(event)
            if entry is not None:
                self._take(entry, event, now)

    def take_images(self, message: ImagesRead) -> None:
        """An engine has read the images of a request, or can't."""
        entry = self._journal.find(message.request_id)
        if entry is None:
            return
        if message.error is None:
            if entry.has_images_read:  # by an engine before
                return
            entry.has_images_read = True
            entry.generation.note_images(message.num_tokens)
            self._metrics.prompt_tokens.inc(message.num_tokens)
            return
        entry.generation.refuse(InvalidRequest(message.error, param="image_data"))
        failed = FinishReason.FAILED
        self.take([TokenEvent(request_id=message.request_id, finish_reason=failed, error=message.error)])

    def survive(self, death: Death, reader: Reader) -> None:
        """Keep what `reader` has in work for its next engine; only what killed the last one is ended."""
        culprit = reader.quarantine.died(death.in_call, is_crash=death.is_crash)
        entry = None if culprit is None else self._journal.find(culprit)
        if culprit is not None and entry is not None:
            entry.generation.may_be_repeated = False
            self._fail(culprit, f"the engine dies of this request, which it computed alone: {death.error}")

    def replay(self, reader: Reader) -> None:
        """Another engine is up: it goes on with what the last one had in work."""
        for entry in self._journal.entries(reader):
            num_tokens = entry.generation.prompt_tokens + len(entry.emitted_token_ids)
            if num_tokens > reader.n_ctx_slot:
                told = f"its {num_tokens} tokens are too many for the engine that took over"
                self._fail(entry.submit.request_id, f"{told}, whose sequences hold {reader.n_ctx_slot}")
        self._metrics.replayed.inc(len(self._journal.entries(reader)))
        self._send(reader, reader.quarantine.loaded())

    def place(self, request_id: int, replica_id: str) -> None:
        """One of its reader's engines has a request now."""
        entry = self._journal.find(request_id)
        if entry is not None:
            entry.generation.replica_ids.append(replica_id)

    def resume(self, reader: Reader, request_ids: list[int]) -> None:
        """The one of its engines is gone that had these: another goes on with them."""
        self._metrics.replayed.inc(len(request_ids))
        self._send(reader, request_ids)

    def fail(self, error: str, reader: Reader | None = None) -> None:
        """End what `reader` has in work, or everything, as failed."""
        for entry in self._journal.entries(reader):
            entry.reader.send(Cancel(entry.submit.request_id))
            self._fail(entry.submit.request_id, error)

    def _fail(self, request_id: int, error: str) -> None:
        self.take([TokenEvent(request_id=request_id, finish_reason=FinishReason.FAILED, error=error)])

    def _send(self, reader: Reader, request_ids: list[int]) -> None:
        for request_id in request_ids:
            entry = self._journal.find(request_id)
            if entry is not None:
                reader.send(entry.submission())

    def _take(self, entry: Entry, event: TokenEvent, now: float) -> None:
        metrics = self._metrics
        is_first = entry.last_token_at is None
        if event.token_ids:
            metrics.completion_tokens.inc(len(event.token_ids))
            if entry.last_token_at is None:
                self._admission.dequeue(entry.party, entry.queued_tokens, served=True)
                metrics.observe_first_token(entry.reader.group, now - entry.arrived_at)
                metrics.queue_s.observe(event.queue_s)
                metrics.cached_tokens.inc(event.cached_tokens)
            else:
                metrics.itl_s.observe(now - entry.last_token_at)
                entry.reader.pace.note_gap(now - entry.last_token_at, len(event.token_ids))
            entry.last_token_at = now
        if event.finish_reason is not None:
            if is_first and not event.token_ids:
                self._admission.dequeue(entry.party, entry.queued_tokens, served=False)
            if event.finish_reason in _WHOLE:
                self._admission.learn_completion(len(entry.emitted_token_ids))
            metrics.observe_completion(entry.reader.group, len(entry.emitted_token_ids))
            entry.reader.close_one()
            if entry.deadline is not None:
                entry.deadline.cancel()
            self._tally.end(event.finish_reason, entry.party)
        metrics.queued_tokens.set(self._admission.queued_tokens)
        entry.generation.push(event)
        quarantine = entry.reader.quarantine
        if event.finish_reason is not None:
            self._send(entry.reader, quarantine.left(event.request_id))
        elif event.token_ids:
            self._send(entry.reader, quarantine.answered(event.request_id))

    def _end(self, request_id: int, reason: FinishReason) -> None:
        """It ends here and now; the engine frees the slot at its next step."""
        entry = self._journal.find(request_id)
        if entry is not None:
            entry.reader.send(Cancel(request_id))
            self.take([TokenEvent(request_id=request_id, finish_reason=reason)])
