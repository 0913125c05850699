"""The front office: takes requests from the doors, gives them to readers.

Knows no HTTP and no llama.cpp. Lives in one event loop; nothing here blocks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from takeoff.errors import InvalidRequest, NotReady, PromptTooLong, TakeoffError
from takeoff.ipc.messages import (
    ChatMessage,
    Encoded,
    EncodeFailed,
    EncoderDetokenized,
    EncoderTokenized,
    Heartbeat,
    ImagesRead,
    Lost,
    Placed,
    Step,
    Submit,
    Tokenized,
    VocabularyDescribed,
)
from takeoff.ipc.turns import make_turns_file
from takeoff.observe.metrics import Metrics
from takeoff.request import Conversation, EncodeRequest, Encoding, Request, Task
from takeoff.service.admission import Admission, Party
from takeoff.service.deadline import within
from takeoff.service.encodings import Encodings
from takeoff.service.engine_watch import Death, FromAny
from takeoff.service.engines import Commands, MakeEngine, processes
from takeoff.service.fleet import Fleet, shutting_down
from takeoff.service.generation import Generation, MakeGeneration
from takeoff.service.generations import Generations
from takeoff.service.intake import Intake, preparers, template_use
from takeoff.service.launch import Launch
from takeoff.service.preparer import check_unicode
from takeoff.service.provision import PlanReader
from takeoff.service.reader import Reader, ReaderCalls, ReaderState
from takeoff.service.tally import Tally
from takeoff.settings import ReaderSettings, Settings

logger = logging.getLogger(__name__)


# Of several readers the first of these that one of them is in tells what the server does.
_TOLD_STATES = (
    ReaderState.LIVE,
    ReaderState.LOADING,
    ReaderState.UNLOADED,
    ReaderState.UNLOADING,
    ReaderState.DRAINING,
)


class Service:
    """Readers behind groups, and the requests that they serve."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        plan_reader: PlanReader,
        *,
        commands: Commands | None = None,
        turns_file: IO[bytes] | None = None,
    ) -> None:
        """`plan_reader` finds a model and plans its memory; see `Fleet`. No process runs before `launch`.

        `turns_file` is shared with other services whose engines use the same cores; None: there are none.
        """
        commands = commands or Commands()
        self.settings = settings
        self.metrics = metrics
        self._admission = Admission(
            max_requests=settings.max_requests, max_queued_tokens=settings.max_queued_tokens
        )
        self._tally = Tally(self._admission, metrics)
        self._generations = Generations(self._admission, self._tally, metrics)
        self._encodings = Encodings(self._admission, self._tally)
        self._intake = Intake(self._admission)
        calls = ReaderCalls(
            on_message=self._take,
            on_loaded=self._reader_loaded,
            on_death=self._reader_died,
            on_unloaded=self._reader_unloaded,
            on_preparer_restart=metrics.preparer_restarts.inc,
        )
        self._turns_file = turns_file or make_turns_file()
        turns_fd = self._turns_file.fileno()
        make_engine = processes(commands, settings.sandbox)
        self._fleet = Fleet(settings, plan_reader, make_engine, commands.preparer, calls, turns_fd)
        metrics.limit_bytes.set(self._fleet.limit_bytes)
        self._is_draining = False

    # --- for the command line --------------------------------------------------------------------

    def launch(
        self,
        reader_id: str,
        settings: ReaderSettings,
        launch: Launch,
        make_engine: MakeEngine | None = None,
    ) -> Reader:
        """Start a reader that is planned; returns at once, the model loads in the background.

        `make_engine` says where its engine is had; None: a process of this machine. Where there is a reader
        of that id, it serves until the new one does, and ends when it has finished what it has.
        """
        return self._fleet.launch(reader_id, settings, launch, make_engine)

    async def wait_ready(self) -> None:
        """Return when every reader is loaded or has failed, and one of them is loaded.

        Raises:
            ModelError: none could be loaded.
        """
        await self._fleet.wait_ready()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, give the open ones `timeout_s` to finish, then break them off."""
        self._is_draining = True
        self._fleet.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._tally.wait_none_open()
        except TimeoutError:
            logger.warning("%d requests did not finish within %g s", self._tally.num_open, timeout_s)
            self._fail_open(f"the server stopped {timeout_s:g} s after it was told to, before the end")

    async def stop(self) -> None:
        """End every process; what is still open breaks off. Idempotent."""
        self._is_draining = True
        self._fail_open("the server was stopped")
        await self._fleet.stop()
        self._turns_file.close()

    @property
    def tally(self) -> Tally:
        """What was accepted and how it ended."""
        return self._tally

    @property
    def queued_tokens(self) -> int:
        """Of requests that wait for their first token, prompts and the completions that they want."""
        return self._admission.queued_tokens

    # --- readers ---------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether some reader serves, or is loaded for who asks for it."""
        is_reader_ready = (
            each.is_live or each.is_awaited or each.state in (ReaderState.UNLOADED, ReaderState.UNLOADING)
            for each in self.readers()
        )
        return not self._is_draining and any(is_reader_ready)

    @property
    def has_started(self) -> bool:
        """Whether some reader has served since the start, or needs no more than to be asked for."""
        return any(reader.has_served or reader.settings.on_demand for reader in self.readers())

    @property
    def status(self) -> str:
        """What the server is doing, in a word; a failure with its reason."""
        readers = self.readers()
        states = {reader.state for reader in readers}
        if self._is_draining:
            return "draining"
        for state in _TOLD_STATES:
            if state in states:
                return state.value
        failed = [reader for reader in readers if reader.state is ReaderState.FAILED]
        return f"failed: {failed[0].error}" if failed else "empty"

    @property
    def last_heartbeat_at(self) -> float:
        """Of any engine, in seconds since the epoch; 0 before the first."""
        return max((reader.last_heartbeat_at for reader in self.readers()), default=0.0)

    def readers(self) -> list[Reader]:
        """All there are, in the order in which they came."""
        return self._fleet.readers()

    def reader(self, reader_id: str) -> Reader:
        """Raises NotFound: there is no such reader."""
        return self._fleet.reader(reader_id)

    def free_id(self, wanted: str) -> str:
        """What is wanted as far as it may stand in an id, with a number if it is taken."""
        return self._fleet.free_id(wanted)

    def models(self) -> list[str]:
        """Names that a client may ask for: of models, then of groups."""
        names = [reader.model_name for reader in self.readers() if reader.launch is not None]
        return list(dict.fromkeys([*names, *self._fleet.group_names()]))

    def model_config(self, reader_id: str) -> dict[str, Any]:
        """What the file of the reader's model says of it.

        Raises:
            NotFound: no such reader.
            NotReady: it is not known yet.
        """
        reader = self._fleet.reader(reader_id)
        if reader.launch is None:
            raise NotReady(f"the reader {reader_id!r} is {reader.state.value}")
        return reader.launch.config

    async def add_reader(self, settings: ReaderSettings) -> Reader:
        """Plan a model and begin to load it; returns when it is planned.

        Raises:
            InvalidRequest: no such model here, or none that can be served.
            NoRoom: it does not fit into the memory that is left.
        """
        self._refuse_if_draining()
        return await self._fleet.add(settings)

    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> Reader:
        """Load a model in the place of another, of the same group; returns when it serves.

        Raises:
            NotFound: no such reader.
            InvalidRequest, NoRoom, EngineFailed: it can't take that place; all is as it was.
        """
        self._refuse_if_draining()
        reader = await self._fleet.replace(reader_id, settings)
        self.metrics.note_memory(self._fleet.planned_bytes)
        return reader

    async def remove_reader(self, reader_id: str) -> None:
        """Take a reader out of its group, let it finish what it has, and end it.

        Raises:
            NotFound: no such reader.
        """
        reader = self._fleet.reader(reader_id)
        await self._fleet.remove(
            reader, lambda: self._fail_open(f"the reader {reader_id!r} was removed", reader)
        )

    async def wait_state(self, state: str, timeout_s: float) -> bool:
        """Whether every reader is in `state`, now or within `timeout_s`."""
        return await self._fleet.wait_state(state, timeout_s)

    # --- for the doors ---------------------------------------------------------------------------

    async def generate(self, request: Request) -> Generation:
        """Accept a request: from here on it ends with exactly one terminal event.

        Use the result in a `with` block: leaving it early cancels the request.

        Raises:
            NotReady: no reader of the group is up, or the server is draining.
            NotFound: no such group.
            InvalidRequest, PromptTooLong: it can never succeed.
            Overloaded: too much is open or waiting.
            PreparerFailed: the prompt could not be prepared.
            EngineFailed: the engine died while it read an image.
            DeadlineExceeded: its time was over before it was accepted.
        """
        arrived_at = time.monotonic()
        with self._entered(Party.of(request)):
            async with within(request.deadline_s):
                while True:
                    reader = await self._fleet.live_reader(request.group, Task.GENERATE)
                    with reader.held():
                        submit = await self._intake.submit(request, reader)
                    if reader.is_serving:  # it was when we began, and the prompt is in its vocabulary
                        break
            self._refuse_if_draining()
            self.metrics.prepare_s.observe(time.monotonic() - arrived_at)
            generation = self._generations.accept(request, submit, reader, arrived_at)
        if isinstance(request.prompt, Conversation):
            generation.call_format = preparers(reader).call_format
        if submit.images:
            await generation.wait_images()
        return generation

    async def resume(self, submit: Submit, make: MakeGeneration) -> Generation:
        """Accept a request that another service has prepared, and that another engine may have begun.

        Its id is that service's; `make` makes what its events are told to.

        Raises:
            NotReady, InvalidRequest: as `generate`.
            PromptTooLong: sequences are shorter here than where it was prepared.
        """
        arrived_at = time.monotonic()
        prompt = tuple(submit.prompt_token_ids)
        num_tokens = len(prompt) + len(submit.emitted_token_ids)
        group = self.readers()[0].group
        request = Request(
            prompt=prompt,
            sampling=submit.sampling,
            group=group,
            tenant=submit.tenant,
            priority=submit.priority,
        )
        with self._entered(Party.of(request)):
            reader = await self._fleet.live_reader(group, Task.GENERATE)
            self._refuse_if_draining()
            if len(prompt) >= reader.n_ctx_slot or num_tokens > reader.n_ctx_slot:
                raise PromptTooLong.beyond(num_tokens, reader.n_ctx_slot)
            own = msgspec.structs.replace(submit, request_id=self._intake.next_id())
            return self._generations.accept(request, own, reader, arrived_at, make)

    async def count_tokens(self, request: Request) -> int:
        """The tokens of a request's prompt, also of one that no sequence holds.

        Raises:
            NotReady, NotFound, InvalidRequest, Overloaded, PreparerFailed, DeadlineExceeded: as `generate`.
                Of a prompt with images, whose tokens only the engine knows, also the others.
        """
        if request.images:
            with await self.generate(request) as generation:
                return generation.prompt_tokens
        async with within(request.deadline_s):
            reader = await self._fleet.live_reader(request.group, Task.GENERATE)
            with reader.held():
                return await self._intake.count(request, reader)

    async def encode(self, request: EncodeRequest) -> Encoding:
        """Embed or classify texts.

        Raises:
            NotReady, NotFound, InvalidRequest, PromptTooLong, Overloaded, DeadlineExceeded: as `generate`.
            EngineFailed: the engine died.
        """
        for text in request.texts:
            for part in (text,) if isinstance(text, str) else text:
                check_unicode(part)
        party = Party.of(request)
        async with within(request.deadline_s):
            with self._entered(party):
                reader = await self._fleet.live_reader(request.group, request.task)
                accepted = self._encodings.accept(request, reader, party)
            return await self._encodings.finish(accepted)

    async def tokenize(
        self,
        reader_id: str,
        text: str,
        *,
        use_chat_template: bool | None,
        skip_special_tokens: bool,
        add_special_tokens: bool = True,
    ) -> Tokenized | EncoderTokenized:
        """How a reader's model cuts `text` into tokens, without those that frame it unless they are added.

        Raises:
            NotFound: no such reader.
            NotReady: it is not up.
            InvalidRequest, PreparerFailed: see `Preparer.ask`.
        """
        async with self._fleet.known_reader(reader_id) as reader:
            if reader.task is not Task.GENERATE:
                check_unicode(text)
                skips = skip_special_tokens or not add_special_tokens
                return await self._encodings.tokenize(reader, text, skip_special_tokens=skips)
            template = template_use(use_chat_template, default="off")
            return await preparers(reader).tokenize(
                text,
                template,
                skip_special_tokens=skip_special_tokens,
                add_special_tokens=add_special_tokens,
            )

    async def tokenize_chat(self, reader_id: str, conversation: Conversation) -> Tokenized:
        """The tokens that a chat of `conversation` is prefilled with, however many. Raises as `tokenize`."""
        async with self._fleet.known_reader(reader_id) as reader:
            if reader.task is not Task.GENERATE:
                raise InvalidRequest(f"the model {reader.model_name} has no chat template", param="reader_id")
            return await preparers(reader).tokenize_chat(conversation)

    async def detokenize(self, reader_id: str, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """The text that tokens stand for. Raises as `tokenize`."""
        async with self._fleet.known_reader(reader_id) as reader:
            if reader.task is not Task.GENERATE:
                return await self._encodings.detokenize(
                    reader, tokens, skip_special_tokens=skip_special_tokens
                )
            return await preparers(reader).detokenize(tokens, skip_special_tokens=skip_special_tokens)

    async def describe_vocabulary(self, reader_id: str) -> VocabularyDescribed:
        """What frames the prompts of a model that generates. Raises as `tokenize`."""
        async with self._fleet.known_reader(reader_id) as reader:
            if reader.task is not Task.GENERATE:
                raise InvalidRequest(f"the model {reader.model_name} continues no text", param="reader_id")
            return await preparers(reader).describe_vocabulary()

    async def render_chat(
        self, reader_id: str, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool
    ) -> list[str]:
        """Conversations of (role, content) as the model's own template writes them. Raises as `tokenize`."""
        async with self._fleet.known_reader(reader_id) as reader:
            if reader.task is not Task.GENERATE:
                raise InvalidRequest(f"the model {reader.model_name} has no chat template", param="reader_id")
            messages = [[ChatMessage(*message) for message in each] for each in conversations]
            return await preparers(reader).render_chat(messages, add_generation_prompt=add_generation_prompt)

    # --- a request, step by step -----------------------------------------------------------------

    @contextlib.contextmanager
    def _entered(self, party: Party) -> Iterator[None]:
        """Let a request in; a refusal lets it out again, and is counted."""
        try:
            self._refuse_if_draining()
            self._admission.enter(party)
            try:
                yield
            except BaseException:
                self._admission.leave(party)
                raise
        except TakeoffError as exc:
            self.metrics.refused.labels(exc.code).inc()
            raise

    # --- what the readers say --------------------------------------------------------------------

    def _take(self, reader: Reader, message: FromAny) -> None:
        match message:
            case Step(events=events):
                self._generations.take(events)
            case ImagesRead():
                self._generations.take_images(message)
            case Encoded() | EncodeFailed() | EncoderTokenized() | EncoderDetokenized():
                self._encodings.take(message)
            case Placed(request_id=request_id, replica_id=replica_id):
                self._generations.place(request_id, replica_id)
            case Lost(request_ids=request_ids):
                self._generations.resume(reader, request_ids)
            case Heartbeat():
                reader.beat = message
                reader.pace.take(message, time.monotonic())
                self.metrics.observe_heartbeat(reader, message)

    def _reader_loaded(self, reader: Reader) -> None:
        self.metrics.reader_loaded(reader.reader_id)
        self.metrics.note_memory(self._fleet.planned_bytes)
        at_work = self._generations if reader.task is Task.GENERATE else self._encodings
        at_work.replay(reader)

    def _reader_died(self, reader: Reader, death: Death) -> None:
        if reader.state is not ReaderState.FAILED:
            self.metrics.engine_died(reader)
        at_work = self._generations if reader.task is Task.GENERATE else self._encodings
        at_work.survive(death, reader)
        if reader.is_hopeless or not self.settings.replay:
            self._fail_open(death.error, reader)

    def _reader_unloaded(self, reader: Reader) -> None:
        self.metrics.reader_unloaded(reader, reader.reader_id)
        self.metrics.note_memory(self._fleet.planned_bytes)

    def _fail_open(self, error: str, reader: Reader | None = None) -> None:
        self._generations.fail(error, reader)
        self._encodings.fail(error, reader)

    # --- small things ----------------------------------------------------------------------------

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise shutting_down(self.settings)
