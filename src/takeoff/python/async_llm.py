"""A model for code with an event loop: the service of `takeoff serve`, with nothing between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, nullcontext
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from takeoff.errors import InvalidRequest, NotReady
from takeoff.models.progress import Progress
from takeoff.python.options import Message, Sampling, Texts, conversation, model_settings, sampling_params
from takeoff.request import EncodeRequest, Request, Task
from takeoff.service.launching import PlannedReader, for_own_use, launched, plan_readers
from takeoff.service.service import Service

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


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
        self._planned = list(plan_readers(self._settings, lambda: nullcontext(_LoggedProgress())))

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
    async def generate(
        self, prompts: str, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> str: ...
    @overload
    async def generate(
        self, prompts: Texts, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> list[str]: ...
    async def generate(
        self,
        prompts: str | Texts,
        *,
        chat_template: bool | None = None,
        **sampling: Unpack[Sampling],
    ) -> str | list[str]:
        """Complete one prompt, or several at once, in their order.

        Args:
            prompts: the text, or texts.
            chat_template: whether it is wrapped as a user's message; None: as the setting says, by
                default where the model has a template and the text has none of its marks.
            sampling: see `Sampling`.

        Raises:
            InvalidRequest, PromptTooLong: it can never succeed.
            EngineFailed, PreparerFailed: a process died of it; it is up again for the next call.
            NotReady: the model is not running.
        """
        if isinstance(prompts, str):
            return await self._complete(_request(self._group, prompts, chat_template, sampling))
        requests = [_request(self._group, prompt, chat_template, sampling) for prompt in prompts]
        return await _all(requests, self._complete, self._reader.num_open)

    def stream(
        self, prompt: str, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> AsyncGenerator[str, None]:
        """The completion of one prompt in pieces as they come. Closing it early frees its slot.

        Raises as `generate`: what is wrong with the options here, the rest at the first piece.
        """
        return self._pieces(_request(self._group, prompt, chat_template, sampling))

    async def chat(self, messages: Sequence[Message], **sampling: Unpack[Sampling]) -> str:
        """The model's answer to a conversation, written with its own chat template. Raises as `generate`."""
        prompt = await self._render(messages)
        return await self.generate(prompt, chat_template=False, **sampling)

    async def stream_chat(
        self, messages: Sequence[Message], **sampling: Unpack[Sampling]
    ) -> AsyncGenerator[str, None]:
        """The answer to a conversation in pieces as they come. Raises as `generate`, at the first piece."""
        prompt = await self._render(messages)
        async with aclosing(self.stream(prompt, chat_template=False, **sampling)) as pieces:
            async for piece in pieces:
                yield piece

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
        many = [texts] if isinstance(texts, str) else list(texts)
        if not many:
            return []
        request = EncodeRequest(task=Task.EMBED, texts=tuple(many), group=self._group)
        vectors = (await self._running_service().encode(request)).vectors
        return vectors[0] if isinstance(texts, str) else vectors

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

    async def _render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model's template writes it, to the point where its answer begins."""
        turns = conversation(messages)
        service = self._running_service()
        (prompt,) = await service.render_chat(self._reader.reader_id, [turns], add_generation_prompt=True)
        return prompt

    async def _complete(self, request: Request) -> str:
        with await self._running_service().generate(request) as generation:
            return "".join([event.text async for event in generation])

    async def _pieces(self, request: Request) -> AsyncGenerator[str, None]:
        with await self._running_service().generate(request) as generation:
            async for event in generation:
                if event.text:
                    yield event.text


class _LoggedProgress(Progress):
    """Writes the stages of a pull to the log."""

    def stage(self, label: str, total_bytes: int | None) -> None:
        logger.info("%s%s", label, "" if total_bytes is None else f" ({total_bytes / 1e6:,.0f} MB)")

    def at(self, done_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        logger.info("%s", text)


def _request(group: str, prompt: str, chat_template: bool | None, sampling: Sampling) -> Request:
    if not isinstance(prompt, str):
        raise InvalidRequest(f"a prompt is text, got {type(prompt).__name__}", param="prompt")
    return Request(
        prompt=prompt, sampling=sampling_params(sampling), group=group, chat_template=chat_template
    )


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
