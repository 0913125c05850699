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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

from msgspec import structs

from takeoff.call_formats import CallFormat
from takeoff.errors import InvalidRequest, PreparerFailed
from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import (
    Answer,
    ChatMessage,
    ChatRendered,
    ConstraintTried,
    DescribeVocabulary,
    Detokenize,
    Detokenized,
    FromPreparer,
    Image,
    LoadFailed,
    LoadVocabulary,
    PlacedImage,
    Prepare,
    PrepareChat,
    Prepared,
    PrepareFailed,
    Question,
    RenderChat,
    Spell,
    Tokenize,
    Tokenized,
    ToPreparer,
    TryConstraint,
    VocabularyDescribed,
    VocabularyLoaded,
)
from takeoff.request import MAX_TOKENS, Constraint, Conversation, lone_surrogate, strings_of
from takeoff.sandbox.policy import Mode
from takeoff.service.backoff import Backoff
from takeoff.service.child import ERRORS, Child
from takeoff.service.policies import policy_of
from takeoff.thoughts import ThoughtStart

LOAD_TIMEOUT_S = 120.0  # a vocabulary takes under a second, a cold disk some more
LARGE_TEXT_CHARACTERS = 65_536
MAX_GRAMMAR_CHARACTERS = 4 << 20  # of the grammars that are remembered, and of what they were made of
TemplateUse = Literal["auto", "on", "off"]

logger = logging.getLogger(__name__)


class QuestionFailed(PreparerFailed):
    """The preparer was late with this very question, or died of it."""


@dataclass(eq=False, slots=True)
class _Asked:
    """One question on its way to its answer."""

    question: Question
    answer: asyncio.Future[Answer]


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
        tries_constraints: bool = False,
        sandbox: Mode = "auto",
    ) -> None:
        self._command = command
        self._load = LoadVocabulary(model_path, tries_constraints)
        self._sandbox = sandbox
        self._timeout_s = timeout_s
        self._environ = environ
        self._on_restart = on_restart
        self._backoff = Backoff()
        self._waiting: collections.deque[_Asked] = collections.deque()
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

    async def ask(self, question: Question) -> Answer:
        """The answer to `question`; whoever asks numbers the questions.

        Raises:
            InvalidRequest, PromptTooLong: the question can't be answered.
            PreparerFailed: the preparer was late or died of this question, or can't be started.
        """
        self.start()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(question, answer))
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
                asked = await self._next(child)
            except ChannelClosed:
                await self._recover("the preparer died while it had nothing to do", None)
                continue
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._ask(child, asked)
            except TimeoutError:
                await self._recover(f"preparing the prompt took more than {self._timeout_s:g} s", asked)
            except ChannelClosed:
                await self._recover("the preparer died while preparing the prompt", asked)

    async def _start_child(self) -> Child[FromPreparer, ToPreparer]:
        """A child that has loaded the vocabulary."""
        self._started_at = time.monotonic()
        child: Child[FromPreparer, ToPreparer] = await Child.start(
            self._command, FromPreparer, self._environ, policy_of(self._load, self._sandbox)
        )
        self._child = child
        child.channel.send(self._load)
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            reply = await child.channel.receive()
        if isinstance(reply, LoadFailed):
            raise ChannelClosed(reply.error)
        if not isinstance(reply, VocabularyLoaded):
            raise ChannelClosed(f"expected VocabularyLoaded, got {type(reply).__name__}")
        self.vocabulary = reply
        return child

    async def _next(self, child: Child[FromPreparer, ToPreparer]) -> _Asked:
        """The oldest question that somebody still waits for.

        Raises:
            ChannelClosed: the child died meanwhile, of nobody's question.
        """
        while True:
            while self._waiting:
                asked = self._waiting.popleft()
                if not asked.answer.done():
                    return asked
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

    async def _ask(self, child: Child[FromPreparer, ToPreparer], asked: _Asked) -> None:
        try:
            child.channel.send(asked.question)
        except ValueError as exc:
            asked.answer.set_exception(InvalidRequest(str(exc)))
            return
        reply = await child.channel.receive()
        if isinstance(reply, VocabularyLoaded | LoadFailed) or reply.ask_id != asked.question.ask_id:
            raise ChannelClosed(f"unexpected answer {type(reply).__name__}")
        if asked.answer.done():  # whoever asked has left
            return
        if isinstance(reply, PrepareFailed):
            error = ERRORS[reply.code](reply.error, hint=reply.hint, param=reply.param)
            asked.answer.set_exception(error)
        else:
            asked.answer.set_result(reply)

    async def _recover(self, error: str, culprit: _Asked | None) -> None:
        """Kill what is left of the process, tell the one at fault, wait if this is a storm."""
        ending = ""
        if self._child is not None:
            child, self._child = self._child, None
            ending = f" ({await child.kill()})"
        logger.warning("%s%s; starting another preparer", error, ending)
        self._on_restart()
        if culprit is not None and not culprit.answer.done():
            culprit.answer.set_exception(QuestionFailed(error, hint="another preparer is starting"))
        wait_s = self._backoff.after(time.monotonic() - self._started_at)
        if culprit is None and wait_s > 0:
            self._refuse_waiting(PreparerFailed(error))
        await asyncio.sleep(wait_s)

    def _refuse_waiting(self, error: PreparerFailed) -> None:
        while self._waiting:
            asked = self._waiting.popleft()
            if not asked.answer.done():
                asked.answer.set_exception(error)


_Tried = tuple[str, Constraint, str]  # for whom, what, behind which thought


class Preparers:
    """A preparer for short texts; one for long ones and one for constraints, started when first needed."""

    def __init__(self, short: Preparer, large: Preparer, trial: Preparer) -> None:
        self._short = short
        self._large = large
        self._trial = trial
        # of the last constraints of each tenant, behind the thoughts that they came with
        self._grammars: OrderedDict[_Tried, str] = OrderedDict()
        self._num_grammar_characters = 0
        self._images: WeakValueDictionary[bytes, Image] = WeakValueDictionary()  # of open requests
        self._ids = itertools.count()

    @property
    def short(self) -> Preparer:
        return self._short

    @property
    def num_open_images(self) -> int:
        """Different images of open requests."""
        return len(self._images)

    @property
    def call_format(self) -> CallFormat:
        """How the model writes calls of tools; only once a prompt was prepared."""
        loaded = self._short.vocabulary or self._large.vocabulary
        assert loaded is not None
        return loaded.call_format

    def start(self) -> None:
        self._short.start()

    async def prepare(
        self,
        text: str,
        chat_template: TemplateUse,
        max_tokens: int,
        *,
        keep_tokens: int | None = None,
        images: Sequence[bytes] = (),
    ) -> Prepared:
        """A prompt of at most `max_tokens` tokens of text; see `takeoff.prepare.prompt` for the rest.

        Raises:
            InvalidRequest, PromptTooLong, PreparerFailed: see `Preparer.ask`; the first also for a
                text that UTF-8 can't carry.
        """
        check_unicode(text)
        question = Prepare(next(self._ids), text, chat_template, max_tokens, keep_tokens, list(images))
        answer = await self._for(len(text) + sum(map(len, images))).ask(question)
        return self._with_images_once(answer)

    async def prepare_chat(
        self, conversation: Conversation, max_tokens: int, *, images: Sequence[bytes] = ()
    ) -> Prepared:
        """A conversation as a prompt of at most `max_tokens` tokens. Raises as `prepare` does."""
        size = sum(map(len, images))
        for text in strings_of([conversation.messages, conversation.tools, conversation.template_values]):
            check_unicode(text)
            size += len(text)
        question = PrepareChat(next(self._ids), conversation, max_tokens, list(images))
        return self._with_images_once(await self._for(size).ask(question))

    async def tokenize(
        self, text: str, chat_template: TemplateUse, *, skip_special_tokens: bool, add_special_tokens: bool
    ) -> Tokenized:
        """How `text` is cut into tokens. Raises as `prepare` does."""
        check_unicode(text)
        question = Tokenize(next(self._ids), text, chat_template, skip_special_tokens, add_special_tokens)
        answer = await self._for(len(text)).ask(question)
        assert isinstance(answer, Tokenized)
        return answer

    async def tokenize_chat(self, conversation: Conversation) -> Tokenized:
        """The tokens that a conversation becomes as a prompt, however many. Raises as `prepare` does."""
        token_ids = (await self.prepare_chat(conversation, MAX_TOKENS)).token_ids
        answer = await self._for(len(token_ids)).ask(Spell(next(self._ids), token_ids))
        assert isinstance(answer, Tokenized)
        return answer

    async def detokenize(self, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """The text of tokens, given as ids or as the vocabulary writes them. Raises as `prepare`."""
        answer = await self._for(len(tokens)).ask(Detokenize(next(self._ids), tokens, skip_special_tokens))
        assert isinstance(answer, Detokenized)
        return answer.text

    async def describe_vocabulary(self) -> VocabularyDescribed:
        """What frames the model's prompts. Raises as `prepare` does."""
        answer = await self._for(0).ask(DescribeVocabulary(next(self._ids)))
        assert isinstance(answer, VocabularyDescribed)
        return answer

    async def render_chat(
        self, conversations: list[list[ChatMessage]], *, add_generation_prompt: bool
    ) -> list[str]:
        """Conversations as the model's template writes them. Raises as `prepare`."""
        contents = [message.content for conversation in conversations for message in conversation]
        for content in contents:
            check_unicode(content)
        question = RenderChat(next(self._ids), conversations, add_generation_prompt)
        answer = await self._for(sum(map(len, contents))).ask(question)
        assert isinstance(answer, ChatRendered)
        return answer.texts

    async def try_constraint(
        self, constraint: Constraint, thought: ThoughtStart | None = None, *, tenant: str = ""
    ) -> str:
        """The grammar of a constraint that can be enforced, on what follows a thought where one may come.

        Raises:
            InvalidRequest: it can't, or it takes too much time or memory to find out.
            PreparerFailed: the preparer can't be started.
        """
        check_unicode(constraint.source)
        key = tenant, constraint, repr(thought)
        grammar = self._grammars.get(key)
        if grammar is None:
            try:
                answer = await self._trial.ask(TryConstraint(next(self._ids), constraint, thought))
            except QuestionFailed as exc:
                raise InvalidRequest(
                    f"the constraint takes too much time or memory: {exc.message}",
                    param=constraint.kind.value,
                ) from exc
            assert isinstance(answer, ConstraintTried)
            grammar = answer.grammar
        self._remember(key, grammar)
        return grammar

    def _remember(self, key: _Tried, grammar: str) -> None:
        """Those that were asked for last, as many as there is room for."""
        if key not in self._grammars:
            self._num_grammar_characters += _num_characters(key, grammar)
        self._grammars[key] = grammar
        self._grammars.move_to_end(key)
        while self._num_grammar_characters > MAX_GRAMMAR_CHARACTERS:
            self._num_grammar_characters -= _num_characters(*self._grammars.popitem(last=False))

    def _with_images_once(self, answer: Answer) -> Prepared:
        """The prompt; the same image of several open requests is in memory once."""
        assert isinstance(answer, Prepared)
        images = [
            PlacedImage(self._images.setdefault(placed.image.digest, placed.image), placed.place)
            for placed in answer.images
        ]
        return structs.replace(answer, images=images)

    def _for(self, size: int) -> Preparer:
        """Who answers a question over so many characters, or bytes of images."""
        return self._large if size > LARGE_TEXT_CHARACTERS else self._short

    async def stop(self) -> None:
        await asyncio.gather(self._short.stop(), self._large.stop(), self._trial.stop())


def check_unicode(text: str) -> None:
    """Raise InvalidRequest for a text that UTF-8 can't carry."""
    place = lone_surrogate(text)
    if place is not None:
        raise InvalidRequest(
            f"the prompt has a lone surrogate (U+{ord(text[place]):04X}) at position {place}, "
            "which is not a character",
            hint="send well-formed Unicode",
        )


def _num_characters(key: _Tried, grammar: str) -> int:
    return len(key[1].source) + len(grammar)
