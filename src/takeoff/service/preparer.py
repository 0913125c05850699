"""Asks the preparer process, with a deadline; kills and restarts it when it is late or dies.

One question is under way at a time, the others wait here: a kill then costs the one at fault and
nobody else. Long texts have a process of their own, so that they delay no short one.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from takeoff.errors import InvalidRequest, PreparerFailed, PromptTooLong, TakeoffError
from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import (
    FromPreparer,
    LoadFailed,
    LoadVocabulary,
    Prepare,
    Prepared,
    PrepareFailed,
    ToPreparer,
    VocabularyLoaded,
)
from takeoff.service.backoff import Backoff
from takeoff.service.child import Child

LOAD_TIMEOUT_S = 120.0  # a vocabulary takes under a second, a cold disk some more
LARGE_TEXT_CHARACTERS = 65_536

logger = logging.getLogger(__name__)

_ERRORS: dict[str, type[TakeoffError]] = {
    "invalid_request": InvalidRequest,
    "context_length_exceeded": PromptTooLong,
    "preparer_failed": PreparerFailed,
}


@dataclass(eq=False, slots=True)
class _Question:
    """One text on its way to token ids."""

    message: Prepare
    answer: asyncio.Future[list[int]]


class Preparer:
    """One preparer process at a time, and the questions that wait for it."""

    def __init__(
        self,
        command: Sequence[str],
        model_path: str,
        *,
        timeout_s: float,
        environ: dict[str, str],
        on_restart: Callable[[], None],
    ) -> None:
        self._command = command
        self._model_path = model_path
        self._timeout_s = timeout_s
        # No GPU for a process that only reads a vocabulary: opening one takes memory and time.
        self._environ = environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        self._on_restart = on_restart
        self._backoff = Backoff()
        self._ids = itertools.count()
        self._waiting: collections.deque[_Question] = collections.deque()
        self._wake = asyncio.Event()
        self._child: Child[FromPreparer, ToPreparer] | None = None
        self._started_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.vocabulary: VocabularyLoaded | None = None  # of the last process that loaded

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the process in the background; nothing to do if it was started."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="preparer")

    async def prepare(
        self, text: str, chat_template: Literal["auto", "on", "off"], max_tokens: int
    ) -> list[int]:
        """Token ids of `text`, at most `max_tokens`.

        Raises:
            InvalidRequest, PromptTooLong: the text can't be served.
            PreparerFailed: the preparer was late or died of this text, or can't be started.
        """
        self.start()
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(Prepare(next(self._ids), text, chat_template, max_tokens), answer))
        self._wake.set()
        return await answer

    async def stop(self) -> None:
        """End the process; whoever waits is refused. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._refuse_waiting(PreparerFailed("the server is shutting down"))
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()

    async def _run(self) -> None:
        while True:
            try:
                child = self._child or await self._start_child()
            except (ChannelClosed, TimeoutError, OSError) as exc:
                await self._recover(f"the preparer could not be started: {exc or 'it took too long'}", None)
                continue
            try:
                question = await self._next_question(child)
            except ChannelClosed:
                await self._recover("the preparer died while it had nothing to do", None)
                continue
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._ask(child, question)
            except TimeoutError:
                await self._recover(f"preparing the prompt took more than {self._timeout_s:g} s", question)
            except ChannelClosed:
                await self._recover("the preparer died while preparing the prompt", question)

    async def _start_child(self) -> Child[FromPreparer, ToPreparer]:
        """A child that has loaded the vocabulary."""
        self._started_at = time.monotonic()
        child: Child[FromPreparer, ToPreparer] = await Child.start(self._command, FromPreparer, self._environ)
        self._child = child
        child.channel.send(LoadVocabulary(self._model_path))
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            reply = await child.channel.receive()
        if isinstance(reply, LoadFailed):
            raise ChannelClosed(reply.error)
        if not isinstance(reply, VocabularyLoaded):
            raise ChannelClosed(f"expected VocabularyLoaded, got {type(reply).__name__}")
        self.vocabulary = reply
        return child

    async def _next_question(self, child: Child[FromPreparer, ToPreparer]) -> _Question:
        """The oldest question that somebody still waits for.

        Raises:
            ChannelClosed: the child died meanwhile, of nobody's question.
        """
        while True:
            while self._waiting:
                question = self._waiting.popleft()
                if not question.answer.done():
                    return question
            self._wake.clear()
            await self._woken_or_lost(child)

    async def _woken_or_lost(self, child: Child[FromPreparer, ToPreparer]) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        lost = asyncio.ensure_future(child.channel.receive())  # it owes us nothing: only an end can come
        try:
            await asyncio.wait({woken, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
                raise ChannelClosed("an answer that nobody asked for")
        finally:
            for task in (woken, lost):
                task.cancel()
            await asyncio.gather(woken, lost, return_exceptions=True)

    async def _ask(self, child: Child[FromPreparer, ToPreparer], question: _Question) -> None:
        try:
            child.channel.send(question.message)
        except ValueError as exc:
            question.answer.set_exception(InvalidRequest(str(exc)))
            return
        reply = await child.channel.receive()
        if question.answer.done():  # whoever asked has left
            return
        match reply:
            case Prepared(prepare_id=question.message.prepare_id, token_ids=token_ids):
                question.answer.set_result(token_ids)
            case PrepareFailed(prepare_id=question.message.prepare_id):
                question.answer.set_exception(_ERRORS[reply.code](reply.error, hint=reply.hint))
            case _:
                raise ChannelClosed(f"unexpected answer {type(reply).__name__}")

    async def _recover(self, error: str, culprit: _Question | None) -> None:
        """Kill what is left of the process, tell the one at fault, wait if this is a storm."""
        ending = ""
        if self._child is not None:
            child, self._child = self._child, None
            ending = f" ({await child.kill()})"
        logger.warning("%s%s; starting another preparer", error, ending)
        self._on_restart()
        if culprit is not None and not culprit.answer.done():
            culprit.answer.set_exception(PreparerFailed(error, hint="another preparer is starting"))
        wait_s = self._backoff.after(time.monotonic() - self._started_at)
        if culprit is None and wait_s > 0:
            self._refuse_waiting(PreparerFailed(error))
        await asyncio.sleep(wait_s)

    def _refuse_waiting(self, error: PreparerFailed) -> None:
        while self._waiting:
            question = self._waiting.popleft()
            if not question.answer.done():
                question.answer.set_exception(error)


class Preparers:
    """A preparer for short texts, and one for long ones that starts when first needed."""

    def __init__(self, short: Preparer, large: Preparer) -> None:
        self._short = short
        self._large = large

    @property
    def short(self) -> Preparer:
        return self._short

    def start(self) -> None:
        self._short.start()

    async def prepare(
        self, text: str, chat_template: Literal["auto", "on", "off"], max_tokens: int
    ) -> list[int]:
        """See `Preparer.prepare`.

        Raises:
            InvalidRequest: also for a text that UTF-8 can't carry.
        """
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise InvalidRequest(
                f"the prompt has a lone surrogate (U+{ord(text[exc.start]):04X}) at position {exc.start}, "
                "which is not a character",
                hint="send well-formed Unicode",
            ) from exc
        preparer = self._large if len(text) > LARGE_TEXT_CHARACTERS else self._short
        return await preparer.prepare(text, chat_template, max_tokens)

    async def stop(self) -> None:
        await asyncio.gather(self._short.stop(), self._large.stop())
