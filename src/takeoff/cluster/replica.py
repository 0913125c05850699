"""One replica of a reader: a service without doors, which takes what doors have prepared.

Its engine's deaths are its own affair: it has a journal, another engine, and the dead one's prefixes. Only
if all of it dies, or its machine, a door has to give its requests to another replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

import ray
from ray import serve

from takeoff.cluster.node import TURNS, alone_on_this_node, open_shared
from takeoff.cluster.outbox import Outbox
from takeoff.cluster.secrets import with_secrets
from takeoff.cluster.wire import Answer, Described, Look, Question, decode_question, decode_submit, encode
from takeoff.errors import EngineFailed, InvalidRequest, PromptTooLong, StartError, TakeoffError
from takeoff.ipc.messages import (
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderTokenize,
    EncoderTokenized,
    ImagesRead,
)
from takeoff.models.progress import LoggedProgress
from takeoff.models.store import Store
from takeoff.observe.logs import set_up_logs
from takeoff.observe.metrics import Metrics
from takeoff.request import EncodeRequest, FinishReason, Task, TokenEvent
from takeoff.service.engines import Commands
from takeoff.service.generation import Generation
from takeoff.service.launching import ADMITS_ALL, PlannedReader, plan_readers
from takeoff.service.planner import Planner
from takeoff.service.reader import ReaderState
from takeoff.service.service import Service
from takeoff.settings import Settings
from takeoff.thoughts import ThoughtStart

SILENT_S = 30.0  # a door that has not asked for so long is dead: what it had here is ended


class Forwarded(Generation):
    """A request whose news go to the door that sent it, under the door's number."""

    def __init__(
        self,
        outbox: Outbox,
        wire_id: int,
        ended: asyncio.Event,
        request_id: int,
        prompt_tokens: int,
        end: Callable[[int, FinishReason], None],
        thought: ThoughtStart | None,
    ) -> None:
        """`ended` is set behind the terminal event."""
        super().__init__(request_id, prompt_tokens, end, thought)
        self._outbox = outbox
        self._wire_id = wire_id
        self._ended = ended

    def push(self, event: TokenEvent) -> None:
        self.finish_reason = event.finish_reason
        self._outbox.event(replace(event, request_id=self._wire_id))
        if event.finish_reason is not None:
            self._ended.set()

    def note_images(self, num_tokens: int) -> None:
        self._outbox.images(ImagesRead(self._wire_id, num_tokens))

    def refuse(self, error: InvalidRequest) -> None:
        self._outbox.images(ImagesRead(self._wire_id, 0, error.message))


class Replica:
    """What Ray Serve runs; doors call its methods, with bytes of `takeoff.cluster.wire`."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, settings_json: str, commands: Commands | None = None
    ) -> None:
        """Returns when the model of the settings' one reader is loaded.

        Raises:
            StartError: it can't be.
        """
        self._stack = contextlib.AsyncExitStack()
        told = Settings.model_validate(json.loads(settings_json)).model_copy(update=ADMITS_ALL)
        settings = with_secrets(told, os.environ)
        set_up_logs(settings.log_level)
        self._outboxes: dict[str, Outbox] = {}  # by address
        self._heard: dict[str, float] = {}  # when each door has said anything last
        self._service = Service(
            settings,
            Metrics(),
            Planner(Store(settings.store), settings.repository_path),
            commands=commands or Commands(preparer=()),
            turns_file=self._stack.enter_context(open_shared(TURNS)),
        )
        self._stack.push_async_callback(self._service.stop)
        async with alone_on_this_node():
            planned = await asyncio.to_thread(_plan, settings)
            self._reader = self._service.launch(planned.reader_id, planned.settings, planned.planned.launch)
            await self._service.wait_ready()

    async def describe(self) -> bytes:
        """What doors must know to prepare requests."""
        reader = self._reader
        assert reader.launch is not None
        is_generating = reader.task is Task.GENERATE
        return encode(
            Described(
                reader_id=reader.reader_id,
                settings_json=reader.settings.model_dump_json(exclude_unset=True),
                model_name=reader.model_name,
                task=reader.task.value,
                load=reader.launch.load,
                loaded=reader.loaded if is_generating else reader.encoder,
                config=json.dumps(reader.launch.config).encode(),
            )
        )

    async def submit(self, address: str, data: bytes) -> None:
        """Compute a request to its end; what comes of it is told in the news for `address`, "DOOR/STREAM".

        Who cancels the call ends the request; so does the death of its door.
        """
        submit = decode_submit(data)
        outbox = self._outbox(address)
        door = address.partition("/")[0]
        self._heard[door] = time.monotonic()
        ended = asyncio.Event()
        outbox.num_open += 1
        try:
            make = partial(Forwarded, outbox, submit.request_id, ended)
            with await self._service.resume(submit, make):
                while not ended.is_set() and time.monotonic() - self._heard[door] < SILENT_S:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SILENT_S / 4):
                            await ended.wait()
        except TakeoffError as exc:
            failed = FinishReason.FAILED
            outbox.event(TokenEvent(request_id=submit.request_id, finish_reason=failed, error=exc.told))
        finally:
            outbox.num_open -= 1

    async def news(self, address: str) -> AsyncIterator[bytes]:
        """Batches for `address`, from here on until nothing of it is open. A second stream ends the first."""
        outbox = self._outbox(address)
        try:
            async for batch in outbox.batches():
                yield batch
        finally:
            if not outbox.num_open:
                self._outboxes.pop(address, None)

    async def ask(self, data: bytes) -> bytes:
        """Encode texts, or show their tokens.

        Raises:
            TakeoffError: it is not the question's fault; another replica may know better.
        """
        question = decode_question(data)
        try:
            return encode(await self._answer(question))
        except PromptTooLong as exc:
            return encode(EncodeFailed(question.request_id, exc.message, "context_length_exceeded"))
        except InvalidRequest as exc:
            return encode(EncodeFailed(question.request_id, exc.message, "invalid_request"))
        except EngineFailed as exc:
            return encode(EncodeFailed(question.request_id, exc.message, "engine_failed"))

    async def look(self, door: str) -> bytes:
        """How it is. `door` lives as long as it asks."""
        self._heard[door] = time.monotonic()
        context = serve.get_replica_context()
        return encode(
            Look(
                replica_id=context.replica_id.unique_id,
                node=ray.util.get_node_ip_address(),
                beat=self._reader.beat,
                restarts=self._reader.num_restarts,
            )
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For `takeoff.cluster.autoscaling`."""
        return {
            "queued_tokens": float(self._service.queued_tokens),
            "load": self._reader.load_share,
        }

    async def check_health(self) -> None:
        """Raises StartError: it will never serve again, and another replica must be made."""
        if self._reader.state is ReaderState.FAILED:
            raise StartError(self._reader.error or "the model can't be loaded")

    async def __del__(self) -> None:
        """Ray Serve awaits this when the replica has drained, or could not be made."""
        await self._stack.aclose()

    def _outbox(self, address: str) -> Outbox:
        return self._outboxes.setdefault(address, Outbox())

    async def _answer(self, question: Question) -> Answer:
        service, reader_id = self._service, self._reader.reader_id
        match question:
            case Encode(request_id=request_id, texts=texts):
                asked = EncodeRequest(task=self._reader.task, texts=tuple(texts), group=self._reader.group)
                encoding = await service.encode(asked)
                numbers = array("f", (number for vector in encoding.vectors for number in vector))
                replica_id = serve.get_replica_context().replica_id.unique_id
                return Encoded(request_id, numbers.tobytes(), encoding.num_tokens, replica_id)
            case EncoderTokenize(request_id=request_id, text=text, skip_special_tokens=skips):
                tokens = await service.tokenize(
                    reader_id, text, use_chat_template=None, skip_special_tokens=skips
                )
                return EncoderTokenized(request_id, tokens.token_ids, tokens.tokens)
            case EncoderDetokenize(request_id=request_id, tokens=ids, skip_special_tokens=skips):
                text = await service.detokenize(reader_id, ids, skip_special_tokens=skips)
                return EncoderDetokenized(request_id, text)


def _plan(settings: Settings) -> PlannedReader:
    [planned] = plan_readers(settings, lambda: contextlib.nullcontext(LoggedProgress()))
    return planned
