"""An accepted request and its tokens as they come. Leaving the `with` block frees its slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from takeoff.call_formats import CallFormat
from takeoff.errors import EngineFailed, InvalidRequest
from takeoff.request import FinishReason, TokenEvent, joined
from takeoff.thoughts import ThoughtParser, ThoughtStart


class Generation:
    """What a door holds of a request: a context manager, and an async iterator of TokenEvent.

    A context manager, not a `finally` inside an async generator: that `finally` doesn't run when
    the client leaves before the first token is asked for.

    Events that come while nobody asks are merged into one, so a slow client costs the text of its
    completion at most, and holds up nobody.
    """

    def __init__(
        self,
        request_id: int,
        prompt_tokens: int,
        end: Callable[[int, FinishReason], None],
        thought: ThoughtStart | None = None,
    ) -> None:
        """`end` is called with the request's id, and why, to end it before its end."""
        self.request_id = request_id
        self.reader_id = ""  # that computes it
        self.replica_ids: list[str] = []  # of the reader, where it has several engines: one after the other
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0  # prompt tokens that were not computed again
        self.completion_tokens = 0
        self.began_at = time.monotonic()  # seconds
        self.queue_s = 0.0  # that it waited for a slot
        self.first_token_at: float | None = None  # monotonic seconds
        self.ended_at: float | None = None
        self.accepted_prediction_tokens = 0  # of those, computed ahead because the client predicted them
        self.rejected_prediction_tokens = 0  # that were predicted and computed ahead in vain
        self.reasoning_tokens = 0  # of those, up to the one that ended the thought
        self.thought = thought  # that the text may begin with
        self.call_format = CallFormat.JSON  # how the model writes calls of tools
        self.finish_reason: FinishReason | None = None
        self._thoughts = None if thought is None else ThoughtParser(thought)
        self._end = end
        self._events: list[TokenEvent] = []
        self.may_be_repeated = True  # after a failure; False: it would fail again
        self._failure: str | None = None
        self._refusal: InvalidRequest | None = None
        self._wake = asyncio.Event()
        self._images_read = asyncio.Event()  # or it has ended

    def push(self, event: TokenEvent) -> None:
        """Add the news of a step. The service calls this; nothing may follow a terminal event."""
        if event.token_ids and self.first_token_at is None:
            self.first_token_at, self.queue_s = time.monotonic(), event.queue_s
        self.completion_tokens += len(event.token_ids)
        self.cached_tokens = max(self.cached_tokens, event.cached_tokens)
        self.accepted_prediction_tokens += event.accepted_prediction_tokens
        self.rejected_prediction_tokens += event.rejected_prediction_tokens
        self.finish_reason = event.finish_reason
        if self._thoughts is not None:
            self._count_thoughts(self._thoughts, event.text)
        if event.finish_reason is FinishReason.FAILED:
            self._failure = event.error or "the engine failed"
        else:
            self._events.append(event)
        if event.finish_reason is not None:
            self.ended_at = time.monotonic()
            self._images_read.set()
        self._wake.set()

    def _count_thoughts(self, thoughts: ThoughtParser, text: str) -> None:
        """Here, where no two events are one yet: of a text alone nobody can tell the tokens."""
        was_over = thoughts.is_over
        for _ in thoughts.push(text):
            pass
        if thoughts.has_begun and not was_over:
            self.reasoning_tokens = self.completion_tokens

    def note_images(self, num_tokens: int) -> None:
        """Its images are read: they are so many tokens of the prompt."""
        self.prompt_tokens += num_tokens
        self._images_read.set()

    def refuse(self, error: InvalidRequest) -> None:
        """Its images can't be taken; its terminal event follows."""
        self._refusal = error

    async def wait_images(self) -> None:
        """Return when the images are read. Who stops waiting cancels the request.

        Raises:
            InvalidRequest: they can't be.
            EngineFailed: the engine died of something else.
        """
        try:
            await self._images_read.wait()
        except BaseException:
            self.end(FinishReason.CANCELLED)
            raise
        if self._refusal is not None:
            raise self._refusal
        if self._failure is not None:
            raise self._broken_off(self._failure)

    def _broken_off(self, why: str) -> EngineFailed:
        return EngineFailed(why, hint="send the request again" if self.may_be_repeated else None)

    def end(self, reason: FinishReason) -> None:
        """End it here and now, unless it has ended: what it has said stays said."""
        if self.finish_reason is None:
            self._end(self.request_id, reason)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(FinishReason.CANCELLED)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> TokenEvent:
        """The next news; the last has a `finish_reason`.

        Raises:
            EngineFailed: the completion broke off; what came before it is whole.
        """
        while not self._events:
            if self._failure is not None:
                raise self._broken_off(self._failure)
            if self.finish_reason is not None:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        events, self._events = self._events, []
        return events[0] if len(events) == 1 else joined(events)


# Of a request's id, its prompt's tokens, what ends it, and the thought that it may begin with.
MakeGeneration = Callable[[int, int, Callable[[int, FinishReason], None], ThoughtStart | None], Generation]
