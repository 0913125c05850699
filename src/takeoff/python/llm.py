"""A model for code without an event loop: the calls of `AsyncLLM`, each waited for."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

from takeoff.python.async_llm import AsyncLLM
from takeoff.python.completion import Completion
from takeoff.python.options import ChatOptions, Message, Pair, Prompt, PromptOptions, Prompts, Texts
from takeoff.python.thread import LoopThread
from takeoff.service.ranking import Ranked


class LLM:
    """A model in processes of its own. Any thread may call it, several at once.

    They end with the `with` block, with `close`, with the object, and with this process, however it ends.
    What each call takes and raises is told at `AsyncLLM`.
    """

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        """Fetch the model if it is not in the store, and load it.

        Args:
            model: catalogue name, hf:org/repo[:file], URL or path; None: the default, or a variable's.
            settings: those of `takeoff serve`, by their names: context, max_slots, threads, ...

        Raises:
            SettingsError: a setting that there is not, or wrong.
            PullError, ModelError, PlanError: it can't be had, or not run here; no process is left.
        """
        self._calls = calls = AsyncLLM(model, **settings)
        calls.plan()
        self._thread = thread = LoopThread()
        # At the latest when this process ends: a finalizer runs before daemon threads are stopped.
        self._end = weakref.finalize(self, thread.close, calls.close)
        try:
            thread.run(calls.start)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the model's processes; open calls end with EngineFailed. Idempotent."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._calls.model

    @overload
    def generate(self, prompts: Prompt, **options: Unpack[PromptOptions]) -> str: ...
    @overload
    def generate(self, prompts: Prompts, **options: Unpack[PromptOptions]) -> list[str]: ...
    def generate(self, prompts: Prompt | Prompts, **options: Unpack[PromptOptions]) -> str | list[str]:
        """The completion of one prompt, or of several at once, in their order."""

        async def call() -> str | list[str]:
            return await self._calls.generate(prompts, **options)

        return self._thread.run(call)

    @overload
    def complete(
        self,
        prompts: Prompt,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Completion: ...
    @overload
    def complete(
        self,
        prompts: Prompts,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> list[Completion]: ...
    def complete(
        self,
        prompts: Prompt | Prompts,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Completion | list[Completion]:
        """As `generate`, with token ids, the reason of the end, and what is asked for beside."""

        async def call() -> Completion | list[Completion]:
            return await self._calls.complete(
                prompts, logprobs=logprobs, prompt_logprobs=prompt_logprobs, **options
            )

        return self._thread.run(call)

    def stream(self, prompt: Prompt, **options: Unpack[PromptOptions]) -> Iterator[str]:
        """The completion of one prompt in pieces as they come. Leaving the loop early frees its slot."""
        return self._iterate(self._calls.stream(prompt, **options))

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> str:
        """The model's answer to a conversation, written with its own chat template."""
        return self._thread.run(lambda: self._calls.chat(messages, **options))

    def complete_chat(
        self,
        messages: Sequence[Message],
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        **options: Unpack[ChatOptions],
    ) -> Completion:
        """As `chat`, with the thought and all else that `complete` gives, and takes."""

        async def call() -> Completion:
            return await self._calls.complete_chat(
                messages, logprobs=logprobs, prompt_logprobs=prompt_logprobs, **options
            )

        return self._thread.run(call)

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Iterator[str]:
        """The answer to a conversation in pieces as they come."""
        return self._iterate(self._calls.stream_chat(messages, **options))

    @overload
    def embed(self, texts: str) -> list[float]: ...
    @overload
    def embed(self, texts: Texts) -> list[list[float]]: ...
    def embed(self, texts: str | Texts) -> list[float] | list[list[float]]:
        """The vector of one text, or of several. The model must be one that embeds."""

        async def call() -> list[float] | list[list[float]]:
            return await self._calls.embed(texts)

        return self._thread.run(call)

    @overload
    def classify(self, texts: str | Pair) -> list[float]: ...
    @overload
    def classify(self, texts: list[str] | list[Pair]) -> list[list[float]]: ...
    def classify(self, texts: str | Pair | list[str] | list[Pair]) -> list[float] | list[list[float]]:
        """The scores of one text for each class of `labels`, or those of several. The model must classify."""

        async def call() -> list[float] | list[list[float]]:
            return await self._calls.classify(texts)

        return self._thread.run(call)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of a model that classifies; of another there are none."""
        return self._calls.labels

    def rerank(self, query: str, documents: Texts, *, top_n: int | None = None) -> list[Ranked]:
        """The documents by what they say to the query, the best first. The model must be a cross-encoder."""
        return self._thread.run(lambda: self._calls.rerank(query, documents, top_n=top_n))

    def _iterate(self, pieces: AsyncGenerator[str, None]) -> Iterator[str]:
        async def next_piece() -> str | None:
            return await anext(pieces, None)

        async def leave() -> None:
            await pieces.aclose()

        try:
            while (piece := self._thread.run(next_piece)) is not None:
                yield piece
        finally:
            if self._thread.is_open:
                self._thread.run(leave)
