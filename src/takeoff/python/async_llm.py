"""A model for code with an event loop: the service of `takeoff serve`, with nothing between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from takeoff.errors import InvalidRequest, NotReady
from takeoff.models.progress import LoggedProgress
from takeoff.python.completion import AnswerText, Completion, completion_of
from takeoff.python.options import (
    ChatOptions,
    Message,
    Pair,
    Prompt,
    PromptOptions,
    Prompts,
    Texts,
    chat_request,
    check_texts,
    is_one,
    model_settings,
    prompt_request,
)
from takeoff.request import EncodeRequest, Request, Task, Text, joined
from takeoff.service.launching import PlannedReader, for_own_use, launched, plan_readers
from takeoff.service.ranking import Ranked, rank_request, ranked
from takeoff.service.service import Service

Item = TypeVar("Item")
Result = TypeVar("Result")


class AsyncLLM:
    """A model in processes of its own, called from one event loop.

    Use it in `async with`, or call `start` and `close`. A class beside `LLM`, with the same names,
    rather than `agenerate` beside `generate` in one class: whoever awaits owns the event loop that the
    model's sockets live in, and every call is then awaited; the two can't be mixed up by one letter.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        """Check the settings; nothing is fetched or started yet.

        Args:
            model: catalogue name, hf:org/repo[:file], URL or path; None: the default, or a variable's.
            settings: those of `takeoff serve`, by their names: context, max_slots, threads, ...

        Raises:
            SettingsError: one that there is not, or wrong.
        """
        self._settings = for_own_use(model_settings(model, settings))
        self._planned: list[PlannedReader] | None = None
        self._service: Service | None = None
        self._running = AsyncExitStack()

    def plan(self) -> None:
        """Fetch the model if it is not in the store, and plan its memory. Blocks; `start` does it if need be.

        Raises:
            PullError, ModelError, PlanError: it can't be had, or not run here.
        """
        self._planned = list(plan_readers(self._settings, lambda: nullcontext(LoggedProgress())))

    async def start(self) -> None:
        """Load the model.

        Raises:
            PullError, ModelError, PlanError: it can't be had, or not run here; no process is left.
        """
        if self._service is not None:
            return
        if self._planned is None:
            await asyncio.to_thread(self.plan)
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(launched(self._settings, self._planned or []))
            await service.wait_ready()
            self._running = stack.pop_all()
        self._service = service

    async def close(self) -> None:
        """End the model's processes; open calls end with EngineFailed. Idempotent."""
        self._service = None
        await self._running.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._reader.model.name

    @overload
    async def generate(self, prompts: Prompt, **options: Unpack[PromptOptions]) -> str: ...
    @overload
    async def generate(self, prompts: Prompts, **options: Unpack[PromptOptions]) -> list[str]: ...
    async def generate(self, prompts: Prompt | Prompts, **options: Unpack[PromptOptions]) -> str | list[str]:
        """The completion of one prompt, or of several at once, in their order.

        Args:
            prompts: a text or token ids, or several.
            options: see `PromptOptions` and `Sampling`.

        Raises:
            InvalidRequest, PromptTooLong: it can never succeed.
            EngineFailed, PreparerFailed: a process died of it; it is up again for the next call.
            NotReady: the model is not running.
        """
        completed = await self.complete(prompts, **options)
        return completed.text if isinstance(completed, Completion) else [each.text for each in completed]

    @overload
    async def complete(
        self,
        prompts: Prompt,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Completion: ...
    @overload
    async def complete(
        self,
        prompts: Prompts,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> list[Completion]: ...
    async def complete(
        self,
        prompts: Prompt | Prompts,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Completion | list[Completion]:
        """As `generate`, with token ids, the reason of the end, and what is asked for beside.

        Args:
            logprobs: tell each token's logarithm of its probability, and so many of the likeliest: the
                model's own, before anything is applied to them; None: tell nothing.
            prompt_logprobs: and of the prompt's tokens, which are computed anew then.
        """
        requests = [
            prompt_request(prompt, self._group, options, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
            for prompt in ([prompts] if is_one(prompts) else prompts)
        ]
        completed = await _all(requests, self._complete, self._reader.num_open)
        return completed[0] if is_one(prompts) else completed

    def stream(self, prompt: Prompt, **options: Unpack[PromptOptions]) -> AsyncGenerator[str, None]:
        """The completion of one prompt in pieces as they come. Closing it early frees its slot.

        Raises as `generate`: what is wrong with the options here, the rest at the first piece.
        """
        return self._pieces(prompt_request(prompt, self._group, options))

    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> str:
        """The model's answer to a conversation, written with its own chat template.

        What it thinks first is no part of it. An assistant's message at the end is continued.

        Raises as `generate`.
        """
        return (await self.complete_chat(messages, **options)).text

    async def complete_chat(
        self,
        messages: Sequence[Message],
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[ChatOptions],
    ) -> Completion:
        """As `chat`, with the thought and all else that `complete` gives, and takes."""
        request = chat_request(
            messages, self._group, options, logprobs=logprobs, prompt_logprobs=prompt_logprobs
        )
        return await self._complete(request)

    def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[str, None]:
        """The answer to a conversation in pieces as they come, without the thought. Raises as `stream`."""
        return self._pieces(chat_request(messages, self._group, options))

    @overload
    async def embed(self, texts: str) -> list[float]: ...
    @overload
    async def embed(self, texts: Texts) -> list[list[float]]: ...
    async def embed(self, texts: str | Texts) -> list[float] | list[list[float]]:
        """The vector of one text, or of several. The model must be one that embeds.

        Raises:
            InvalidRequest, PromptTooLong: it can never succeed; the model generates, for example.
            EngineFailed: the engine died of it.
            NotReady: the model is not running.
        """
        vectors = await self._encode(Task.EMBED, [texts] if isinstance(texts, str) else texts)
        return vectors[0] if isinstance(texts, str) else vectors

    @overload
    async def classify(self, texts: str | Pair) -> list[float]: ...
    @overload
    async def classify(self, texts: list[str] | list[Pair]) -> list[list[float]]: ...
    async def classify(self, texts: str | Pair | list[str] | list[Pair]) -> list[float] | list[list[float]]:
        """The scores of one text for each class of `labels`, or those of several. The model must classify.

        Args:
            texts: a text, or a pair that the model reads together; or a list of either.

        Raises as `embed`.
        """
        if isinstance(texts, list):
            return await self._encode(Task.CLASSIFY, texts)
        (scores,) = await self._encode(Task.CLASSIFY, [texts])
        return scores

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of a model that classifies; of another there are none."""
        (reader,) = self._running_service().readers()
        return () if reader.task is Task.GENERATE else reader.encoder.labels

    async def rerank(self, query: str, documents: Texts, *, top_n: int | None = None) -> list[Ranked]:
        """The documents by what they say to the query, the best first. The model must be a cross-encoder.

        Args:
            top_n: give so many; None: all.

        Raises as `embed`; InvalidRequest also where the model has several classes.
        """
        if top_n is not None and top_n < 1:
            raise InvalidRequest(f"top_n must be at least 1, got {top_n}", param="top_n")
        if not documents:
            return []
        request = rank_request(query, documents, self._group)
        check_texts(request.texts)
        return ranked(await self._running_service().encode(request))[:top_n]

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _reader(self) -> PlannedReader:
        self._running_service()
        assert self._planned is not None, "a running service was planned"
        return self._planned[0]

    @property
    def _group(self) -> str:
        return self._reader.settings.consumer_group

    def _running_service(self) -> Service:
        if self._service is None:
            raise NotReady("the model is not running", hint="call it inside the `with` block")
        return self._service

    async def _encode(self, task: Task, texts: Sequence[Text]) -> list[list[float]]:
        if not texts:
            return []
        check_texts(texts)
        request = EncodeRequest(task=task, texts=tuple(texts), group=self._group)
        return (await self._running_service().encode(request)).vectors

    async def _complete(self, request: Request) -> Completion:
        with await self._running_service().generate(request) as generation:
            event = joined([event async for event in generation])
            return completion_of(event, generation.thought, prompt_tokens=generation.prompt_tokens)

    async def _pieces(self, request: Request) -> AsyncGenerator[str, None]:
        with await self._running_service().generate(request) as generation:
            answer = AnswerText(generation.thought)
            async for event in generation:
                if text := answer.take(event):
                    yield text


async def _all(
    items: Sequence[Item], work: Callable[[Item], Awaitable[Result]], num_open: int
) -> list[Result]:
    """The results of `work` for all items, `num_open` at a time; the first that fails ends the others."""
    places = asyncio.Semaphore(num_open)

    async def in_place(item: Item) -> Result:
        async with places:
            return await work(item)

    tasks = [asyncio.create_task(in_place(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
