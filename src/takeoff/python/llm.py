"""A model for code without an event loop: the calls of `AsyncLLM`, each waited for."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

from takeoff.python.async_llm import AsyncLLM
from takeoff.python.options import Message, Sampling, Texts
from takeoff.python.thread import LoopThread


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
    def generate(
        self, prompts: str, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> str: ...
    @overload
    def generate(
        self, prompts: Texts, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> list[str]: ...
    def generate(
        self,
        prompts: str | Texts,
        *,
        chat_template: bool | None = None,
        **sampling: Unpack[Sampling],
    ) -> str | list[str]:
        """Complete one prompt, or several at once, in their order."""

        async def call() -> str | list[str]:
            return await self._calls.generate(prompts, chat_template=chat_template, **sampling)

        return self._thread.run(call)

    def stream(
        self, prompt: str, *, chat_template: bool | None = None, **sampling: Unpack[Sampling]
    ) -> Iterator[str]:
        """The completion of one prompt in pieces as they come. Leaving the loop early frees its slot."""
        return self._iterate(self._calls.stream(prompt, chat_template=chat_template, **sampling))

    def chat(self, messages: Sequence[Message], **sampling: Unpack[Sampling]) -> str:
        """The model's answer to a conversation, written with its own chat template."""
        return self._thread.run(lambda: self._calls.chat(messages, **sampling))

    def stream_chat(self, messages: Sequence[Message], **sampling: Unpack[Sampling]) -> Iterator[str]:
        """The answer to a conversation in pieces as they come."""
        return self._iterate(self._calls.stream_chat(messages, **sampling))

    @overload
    def embed(self, texts: str) -> list[float]: ...
    @overload
    def embed(self, texts: Texts) -> list[list[float]]: ...
    def embed(self, texts: str | Texts) -> list[float] | list[list[float]]:
        """The vector of one text, or of several. The model must be one that embeds."""

        async def call() -> list[float] | list[list[float]]:
            return await self._calls.embed(texts)

        return self._thread.run(call)

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
