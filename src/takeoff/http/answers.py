"""How a generation becomes an answer: streamed, or whole. The answer owns the generation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from takeoff.errors import Cancelled, DeadlineExceeded, TakeoffError
from takeoff.http.ports import Generation, Service
from takeoff.http.resuming import KeptStream, current_stream, refuse_resume
from takeoff.http.streaming import BrokenOff, KeepAlive, KeptAliveResponse
from takeoff.http.terms import TIMEOUT
from takeoff.http.traffic import route_template
from takeoff.http.visiting import current_visit
from takeoff.request import FinishReason, Request, TokenEvent

Result = TypeVar("Result")
CUT_SHORT = frozenset({FinishReason.CANCELLED, FinishReason.DEADLINE})  # the text is not whole


class ClientLeft(Exception):
    """The connection closed before the answer was whole; nobody is there to be told."""


class NoAnswer(Response):
    """To a client that has left: nothing is sent."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        return


class GenerationResponse(KeptAliveResponse):
    """Streams generations and ends them, however the connection ends; of a kept stream later."""

    def __init__(
        self,
        service: Service,
        generations: list[Generation],
        body: AsyncGenerator[bytes, None],
        media_type: str,
        keep_alive: KeepAlive | None = None,
    ) -> None:
        super().__init__(body, media_type, keep_alive)
        self._metrics = service.metrics
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = current_stream.get()
        if stream is not None:
            await self._keep(stream, scope, receive, send)
            return
        try:
            with ExitStack() as stack:
                for generation in self._generations:
                    stack.enter_context(generation)
                await super().__call__(scope, receive, send)
        finally:
            self._observe(scope)

    async def _keep(self, stream: KeptStream, scope: Scope, receive: Receive, send: Send) -> None:
        making = stream.begin(self._generations, self.body_iterator, self.keep_alive)
        making.add_done_callback(lambda _: self._observe(scope))
        current_visit.get().rest = making
        self.body_iterator = stream.events(after=0)
        with stream.connected():
            await super().__call__(scope, receive, send)

    def _observe(self, scope: Scope) -> None:
        self._metrics.observe_tokens(route_template(scope), _num_tokens(self._generations))


async def submit_all(service: Service, requests: list[Request]) -> list[Generation]:
    """Submit all; if one is refused, those before it are cancelled."""
    with ExitStack() as stack:
        generations = [stack.enter_context(await service.generate(request)) for request in requests]
        for group in {request.group for request in requests}:  # one, unless there is nothing to do
            service.metrics.observe_batch(group, len(requests))
        stack.pop_all()
        return generations


async def submit_streamed(
    http_request: HttpRequest, service: Service, requests: list[Request]
) -> list[Generation]:
    """Submit all, whose answer is a stream. One that is kept is made without its client, too.

    Raises:
        ClientLeft: the client did, before all were accepted; nothing of it goes on.
    """
    if current_stream.get() is not None:
        return await submit_all(service, requests)
    return await unless_client_leaves(http_request, lambda: submit_all(service, requests))


async def complete_all(
    http_request: HttpRequest, service: Service, requests: list[Request]
) -> list[tuple[Generation, str]]:
    """All completions at once, with their texts. Raises as `all_events`."""
    completed = await all_events(http_request, service, requests)
    return [(generation, "".join(event.text for event in events)) for generation, events in completed]


async def all_events(
    http_request: HttpRequest, service: Service, requests: list[Request]
) -> list[tuple[Generation, list[TokenEvent]]]:
    """All completions at once, whole; if one fails or the client leaves, all are cancelled.

    Raises:
        ClientLeft: the client did.
        DeadlineExceeded, Cancelled: before any of them had said anything.
        InvalidRequest: the client wants to pick up what is no stream.
    """
    refuse_resume("a whole answer")

    async def complete() -> list[tuple[Generation, list[TokenEvent]]]:
        with ExitStack() as stack:
            generations = await submit_all(service, requests)
            for generation in generations:
                stack.enter_context(generation)
            try:
                events = await asyncio.gather(*map(_events, generations))
            finally:
                service.metrics.observe_tokens(route_template(http_request.scope), _num_tokens(generations))
            _check_said(generations)
            return list(zip(generations, events, strict=True))

    return await unless_client_leaves(http_request, complete)


async def raw_text(generation: Generation) -> AsyncGenerator[bytes, None]:
    """The text as UTF-8 as it comes.

    Raises:
        BrokenOff: it failed; the client must not take what it has for the whole.
    """
    with breaking_off():
        async for event in generation:
            if event.text:
                yield event.text.encode()
    break_off_if_cut([generation])


def break_off_if_cut(generations: list[Generation]) -> None:
    """At the end of an answer that can't tell why it ended.

    Raises:
        BrokenOff: a text is not whole.
    """
    for generation in generations:
        if generation.finish_reason in CUT_SHORT:
            raise BrokenOff(f"its request ended: {generation.finish_reason}")


def check_in_time(event: TokenEvent, generation: Generation) -> None:
    """Of an answer that is this one generation.

    Raises:
        DeadlineExceeded: `event` says that its time was over before it had said anything.
    """
    if event.finish_reason is FinishReason.DEADLINE:
        _check_said([generation])


def _check_said(generations: list[Generation]) -> None:
    """Raise DeadlineExceeded or Cancelled if all were cut short before they had said anything."""
    if any(each.completion_tokens or each.finish_reason not in CUT_SHORT for each in generations):
        return
    if any(each.finish_reason is FinishReason.DEADLINE for each in generations):
        visit = current_visit.get()
        raise DeadlineExceeded(f"the {visit.timeout_s:g} s of {TIMEOUT} were over before the first token")
    if generations:
        raise Cancelled("the request was ended before it had said anything")


@contextlib.contextmanager
def breaking_off() -> Iterator[None]:
    """Inside a started response, whose status can't tell any more that the generation failed.

    Raises:
        BrokenOff: it did.
    """
    try:
        yield
    except TakeoffError as exc:
        raise BrokenOff(exc.message) from exc


async def merge(generations: list[Generation]) -> AsyncGenerator[tuple[int, TokenEvent], None]:
    """The events of all generations in the order in which they come, each with its generation's index.

    Raises what the first that fails raises; of one alone as `check_in_time`.
    """
    if len(generations) == 1:
        async for event in generations[0]:
            check_in_time(event, generations[0])
            yield 0, event
        return
    ready: asyncio.Queue[tuple[int, asyncio.Future[TokenEvent]]] = asyncio.Queue()
    asked: set[asyncio.Future[TokenEvent]] = set()

    def ask(index: int) -> None:
        news = asyncio.ensure_future(anext(generations[index]))
        asked.add(news)
        news.add_done_callback(lambda news: ready.put_nowait((index, news)))

    for index in range(len(generations)):
        ask(index)
    try:
        while asked:
            index, news = await ready.get()
            asked.remove(news)
            event = news.result()
            yield index, event
            if event.finish_reason is None:
                ask(index)
    finally:
        for news in asked:
            news.cancel()
        await asyncio.gather(*asked, return_exceptions=True)  # several may have failed at once


async def unless_client_leaves(request: HttpRequest, work: Callable[[], Awaitable[Result]]) -> Result:
    """Await `work()`, but cancel it when the client closes the connection.

    Raises:
        ClientLeft: it did.
    """
    task = asyncio.ensure_future(work())
    left = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(generation: Generation) -> list[TokenEvent]:
    return [event async for event in generation]


def _num_tokens(generations: list[Generation]) -> int:
    return sum(generation.completion_tokens for generation in generations)
