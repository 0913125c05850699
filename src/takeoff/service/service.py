"""The front office: takes requests from the doors, gives them to readers, keeps the journal.

Knows no HTTP and no llama.cpp. Lives in one event loop; nothing here blocks it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from takeoff.errors import InvalidRequest, ModelError, NotReady, PromptTooLong, TakeoffError
from takeoff.ipc.messages import Cancel, Load, Submit
from takeoff.observe.metrics import Metrics
from takeoff.request import FinishReason, Request, SamplingParams, TokenEvent, describe
from takeoff.service.admission import Admission
from takeoff.service.child import python_module
from takeoff.service.generation import Generation
from takeoff.service.groups import PRIMARY, Groups
from takeoff.service.journal import Entry, Journal
from takeoff.service.preparer import Preparer, Preparers
from takeoff.service.reader import Reader, ReaderState
from takeoff.settings import Settings

RESTART_WAIT_S = 30.0  # a request waits this long for a reader that is loading
CHARACTERS_PER_TOKEN = 4  # a guess, to bound what waits before it is tokenised

ENGINE_COMMAND = python_module("takeoff.engine.process")
PREPARER_COMMAND = python_module("takeoff.prepare.process")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that is served: the name clients see, and its file."""

    name: str
    path: Path


class Service:
    """One model behind one group. Doors call `generate`; everything else is for the command line."""

    def __init__(
        self,
        settings: Settings,
        model: ServedModel,
        load: Load,
        metrics: Metrics,
        *,
        engine_command: Sequence[str] = ENGINE_COMMAND,
        preparer_command: Sequence[str] = PREPARER_COMMAND,
    ) -> None:
        """`load` is what the memory plan decided. No process runs before `start`."""
        self.settings = settings
        self.model = model
        self.metrics = metrics
        self._journal = Journal()
        self._admission = Admission(
            max_requests=settings.max_requests, max_queued_tokens=settings.max_queued_tokens
        )
        environ: dict[str, str] = {"TAKEOFF_LOG_LEVEL": settings.log_level}
        self._reader = Reader(
            PRIMARY,
            load,
            engine_command,
            environ=environ,
            on_events=self._take_events,
            on_heartbeat=metrics.observe_heartbeat,
            on_death=self._engine_died,
        )
        self._groups = Groups({PRIMARY: [self._reader]})
        self._preparers = Preparers(
            *(
                Preparer(
                    preparer_command,
                    str(model.path),
                    timeout_s=settings.prepare_timeout_s,
                    environ=environ,
                    on_restart=metrics.preparer_restarts.inc,
                )
                for _ in ("short", "large")
            )
        )
        self._request_ids = itertools.count(1)
        self._is_draining = False
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    # --- for the command line --------------------------------------------------------------------

    async def start(self) -> None:
        """Start the processes; returns at once, the model loads in the background."""
        self._preparers.start()
        self._reader.start()

    async def wait_ready(self) -> None:
        """Return when the model is loaded.

        Raises:
            ModelError: it could not be loaded.
        """
        await self._reader.wait_live()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, give the open ones `timeout_s` to finish, then break them off."""
        self._is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_ended.wait()
        except TimeoutError:
            logger.warning("%d requests did not finish within %g s", len(self._journal), timeout_s)
            self._fail_open(f"the server stopped {timeout_s:g} s after it was told to, before the end")

    async def stop(self) -> None:
        """End every process; what is still open breaks off. Idempotent."""
        self._is_draining = True
        self._fail_open("the server was stopped")
        await asyncio.gather(self._reader.stop(), self._preparers.stop())

    # --- for the doors ---------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return self._reader.is_live and not self._is_draining

    def models(self) -> list[str]:
        """Names that a client may ask for."""
        return [self.model.name]

    @property
    def status(self) -> str:
        """What the server is doing, in a word; a failure with its reason."""
        if self._is_draining:
            return "draining"
        if self._reader.state is ReaderState.FAILED:
            return f"failed: {self._reader.error}"
        return self._reader.state.value

    def overview(self) -> dict[str, Any]:
        """What there is to know at a glance, ready for JSON."""
        reader = self._reader
        return {
            "status": self.status,
            "model": self.model.name,
            "groups": self._groups.names(),
            "progress": reader.progress,
            "error": reader.error,
            "open_requests": len(self._journal),
            "queued_tokens": self._admission.queued_tokens,
            "accepted": self._journal.num_accepted,
            "ended": {reason.value: self._journal.num_ended[reason] for reason in FinishReason},
            "engine_restarts": reader.num_restarts,
            "engine_pid": reader.pid,
            "preparer_pid": self._preparers.short.pid,
            "n_slots": reader.load.n_slots,
            "n_ctx_slot": self._n_ctx_slot,
        }

    async def generate(self, request: Request) -> Generation:
        """Accept a request: from here on it ends with exactly one terminal event.

        Use the result in a `with` block: leaving it early cancels the request.

        Raises:
            NotReady: starting, draining, or the engine did not come back in time.
            NotFound: no such group.
            InvalidRequest, PromptTooLong: it can never succeed.
            Overloaded: too much is open or waiting.
            PreparerFailed: the prompt could not be prepared.
        """
        arrived_at = time.monotonic()
        try:
            self._refuse_if_draining()
            self._groups.pick(request.group)
            self._admission.enter()
            try:
                token_ids = await self._prepare(request)
                self.metrics.prepare_s.observe(time.monotonic() - arrived_at)
                reader = await self._live_reader(request.group)
                return self._accept(request, token_ids, reader, arrived_at)
            except BaseException:
                self._admission.leave()
                raise
        except TakeoffError as exc:
            self.metrics.refused.labels(exc.code).inc()
            raise

    # --- a request, step by step -----------------------------------------------------------------

    async def _prepare(self, request: Request) -> list[int]:
        """The prompt's token ids. What waits to be tokenised counts as queued, by a guess."""
        if not request.prompt:
            raise InvalidRequest("the prompt is empty", param="prompt", hint="send some text")
        if not isinstance(request.prompt, str):
            return self._checked_ids(request.prompt)
        guess = min(len(request.prompt) // CHARACTERS_PER_TOKEN + 1, self._n_ctx_slot)
        self._admission.enqueue(guess)
        try:
            return await self._preparers.prepare(
                request.prompt, self._template_mode(request), self._n_ctx_slot - 1
            )
        finally:
            self._admission.dequeue(guess, served=False)

    def _template_mode(self, request: Request) -> Literal["auto", "on", "off"]:
        if request.chat_template is None:
            return self.settings.chat_template
        return "on" if request.chat_template else "off"

    def _checked_ids(self, token_ids: tuple[int, ...]) -> list[int]:
        if len(token_ids) >= self._n_ctx_slot:
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens, but a sequence holds {self._n_ctx_slot} "
                "and one of them is the completion's",
                param="prompt",
                hint="shorten the prompt, or serve with a larger --context",
            )
        return list(token_ids)

    async def _live_reader(self, group: str) -> Reader:
        """A reader that serves now; a loading one is waited for.

        Raises:
            NotReady: none came in time, or the server is stopping.
        """
        reader = self._groups.pick(group)
        if not reader.is_live:
            try:
                async with asyncio.timeout(RESTART_WAIT_S):
                    await reader.wait_live()
            except (TimeoutError, ModelError) as exc:
                why = f": {reader.error}" if reader.error else ""
                raise NotReady(f"the model is {reader.state.value}{why}", hint="try again later") from exc
        self._refuse_if_draining()
        return reader

    def _accept(
        self, request: Request, token_ids: list[int], reader: Reader, arrived_at: float
    ) -> Generation:
        """Journal the request and submit it. Nothing is awaited: it is accepted or it is not."""
        _check_ids(token_ids, reader, "prompt")
        _check_ids(request.sampling.logit_bias, reader, "logit_bias")
        submit = Submit(
            request_id=next(self._request_ids),
            prompt_token_ids=token_ids,
            sampling=self._complete(request, len(token_ids)),
            tenant=request.tenant,
        )
        self._admission.enqueue(len(token_ids))
        generation = Generation(submit.request_id, len(token_ids), self._cancel)
        self._journal.accept(Entry(submit, generation, arrived_at))
        self._all_ended.clear()
        reader.num_open += 1
        reader.send(submit)
        self.metrics.accepted.inc()
        self.metrics.open.inc()
        self.metrics.prompt_tokens.inc(len(token_ids))
        self.metrics.queued_tokens.set(self._admission.queued_tokens)
        logger.debug(
            "request %d: %d tokens, %s", submit.request_id, len(token_ids), describe(submit.sampling)
        )
        return generation

    def _complete(self, request: Request, num_prompt_tokens: int) -> SamplingParams:
        """The sampling parameters with a seed, and a length that the context has room for."""
        sampling = request.sampling
        room = self._n_ctx_slot - num_prompt_tokens
        return dataclasses.replace(
            sampling,
            max_new_tokens=room if sampling.max_new_tokens is None else min(sampling.max_new_tokens, room),
            seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        )

    # --- what the engine says --------------------------------------------------------------------

    def _take_events(self, events: list[TokenEvent]) -> None:
        now = time.monotonic()
        for event in events:
            entry = self._journal.record(event)
            if entry is not None:
                self._take_event(entry, event, now)

    def _take_event(self, entry: Entry, event: TokenEvent, now: float) -> None:
        metrics = self.metrics
        num_prompt_tokens = len(entry.submit.prompt_token_ids)
        is_first = entry.last_token_at is None
        if event.token_ids:
            metrics.completion_tokens.inc(len(event.token_ids))
            if entry.last_token_at is None:
                self._admission.dequeue(num_prompt_tokens, served=True)
                metrics.ttft_s.observe(now - entry.arrived_at)
                metrics.queue_s.observe(event.queue_s)
                metrics.cached_tokens.inc(event.cached_tokens)
            else:
                metrics.itl_s.observe(now - entry.last_token_at)
            entry.last_token_at = now
        if event.finish_reason is not None:
            if is_first and not event.token_ids:
                self._admission.dequeue(num_prompt_tokens, served=False)
            self._end(event.finish_reason)
        metrics.queued_tokens.set(self._admission.queued_tokens)
        entry.generation.push(event)

    def _end(self, reason: FinishReason) -> None:
        self._admission.leave()
        self._reader.num_open -= 1
        self.metrics.open.dec()
        self.metrics.ended.labels(reason.value).inc()
        if not len(self._journal):
            self._all_ended.set()

    def _cancel(self, request_id: int) -> None:
        """The client has left: it ends here and now; the engine frees the slot at its next step."""
        self._reader.send(Cancel(request_id))
        self._take_events([TokenEvent(request_id=request_id, finish_reason=FinishReason.CANCELLED)])

    def _engine_died(self, error: str) -> None:
        if self._reader.state is not ReaderState.FAILED:
            self.metrics.engine_died()
        self._fail_open(error)

    def _fail_open(self, error: str) -> None:
        for request_id in self._journal.open_ids():
            self._reader.send(Cancel(request_id))
            self._take_events(
                [TokenEvent(request_id=request_id, finish_reason=FinishReason.FAILED, error=error)]
            )

    # --- small things ----------------------------------------------------------------------------

    @property
    def _n_ctx_slot(self) -> int:
        loaded = self._reader.loaded
        planned = self._reader.load.n_ctx_slot
        return planned if loaded is None else min(planned, loaded.n_ctx_slot)

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise NotReady("the server is shutting down")


def _check_ids(token_ids: Iterable[int], reader: Reader, param: str) -> None:
    """Raise InvalidRequest for an id that the loaded vocabulary has not: to the engine it would be fatal."""
    assert reader.loaded is not None, "only live readers are given requests"
    n_vocab = reader.loaded.n_vocab
    for token_id in token_ids:
        if not 0 <= token_id < n_vocab:
            raise InvalidRequest(
                f"{param} has the token id {token_id}, and the vocabulary ends at {n_vocab - 1}", param=param
            )
