"""The doors over a scripted service: bytes in, bytes out, no model and no process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from takeoff.call_formats import CallFormat
from takeoff.errors import EngineFailed, NotFound, TakeoffError
from takeoff.http.app import make_app, make_management_app, make_openai_app, make_takeoff_app
from takeoff.http.request_log import RequestLog
from takeoff.http.server import DoorServer, listen
from takeoff.keys.keyring import Keyring
from takeoff.observe.lines import Logs
from takeoff.observe.metrics import Metrics
from takeoff.request import (
    Conversation,
    EncodeRequest,
    Encoding,
    FinishReason,
    Request,
    Task,
    Text,
    TokenEvent,
)
from takeoff.settings import ReaderSettings, Settings
from takeoff.thoughts import ThoughtStart

LIMIT_S = 30.0  # against hanging only
HOST = (b"host", b"localhost:8000")
PORTS = {"port": 8000, "takeoff_port": 3000, "management_port": 3001, "openai_port": 3003}
MAKERS = {
    "front": make_app,
    "takeoff": make_takeoff_app,
    "management": make_management_app,
    "openai": make_openai_app,
}
Script = Sequence[str | BaseException]
Result = TypeVar("Result")


class FakeGeneration:
    """Says the pieces of its script, one token each; an exception in it is raised.

    With a `gate` it says nothing until that is set.
    """

    def __init__(self, request: Request, script: Script, gate: asyncio.Event | None) -> None:
        self.request = request
        prompt = request.prompt
        self.reader_id = "smollm2"
        self.began_at = time.monotonic()
        self.ended_at: float | None = None
        self.queue_s = 0.25
        self.replica_ids: list[str] = []
        self.first_token_at: float | None = None
        self.prompt_tokens = len(prompt.messages if isinstance(prompt, Conversation) else prompt)
        self.cached_tokens = 1
        self.call_format = CallFormat.HERMES
        self.thought: ThoughtStart | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.accepted_prediction_tokens = self.rejected_prediction_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.ends_with = FinishReason.STOP
        self.stop_string: str | None = None
        self.num_cancelled = 0
        self.is_cancelled = asyncio.Event()
        self.is_asked = asyncio.Event()  # somebody waits for text
        self._is_ended = asyncio.Event()  # by `end`
        self._is_told = False
        self._script = iter(script)
        self._num_left = len(script)
        self._gate = gate

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finish_reason is None or self.is_cancelled.is_set():
            self.num_cancelled += 1
            self.finish_reason = FinishReason.CANCELLED
            self.ended_at = time.monotonic()
            self.is_cancelled.set()

    def end(self, reason: FinishReason) -> None:
        if self.finish_reason is None:
            self.finish_reason = reason
            self._is_ended.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        self.is_asked.set()
        if self._gate is not None:
            waits = [asyncio.ensure_future(each.wait()) for each in (self._gate, self._is_ended)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        await asyncio.sleep(0)
        if self._is_ended.is_set() and not self._is_told:
            self._is_told = True
            return TokenEvent(request_id=0, finish_reason=self.finish_reason)
        if self.finish_reason is not None:
            raise StopAsyncIteration
        piece = next(self._script)
        if isinstance(piece, BaseException):
            self.finish_reason = FinishReason.FAILED
            raise piece
        self._num_left -= 1
        self.first_token_at = self.first_token_at or time.monotonic()
        self.completion_tokens += 1
        if self._num_left:
            return TokenEvent(request_id=0, token_ids=(1,), text=piece)
        self.finish_reason = self.ends_with
        return TokenEvent(
            request_id=0,
            token_ids=(1,),
            text=piece,
            finish_reason=self.ends_with,
            stop_string=self.stop_string,
        )


@dataclass
class FakeReader:
    """What the doors see of a reader."""

    reader_id: str
    settings: ReaderSettings = field(default_factory=ReaderSettings)
    state: str = "live"
    error: str | None = None
    progress: float = 0.0
    pids: list[int] = field(default_factory=lambda: [11, 12])
    task: str = "generate"
    max_tokens: int = 512
    num_bytes: int = 500_000_000
    replicas: tuple[()] = ()

    @property
    def group(self) -> str:
        return self.settings.consumer_group

    @property
    def quantisation(self) -> str:
        return "Q8_0"

    @property
    def device(self) -> str:
        return self.settings.device

    @property
    def model_name(self) -> str:
        return self.settings.model


@dataclass
class FakeTokens:
    token_ids: list[int]
    tokens: list[str]


@dataclass
class FakeVocabulary:
    bos_token: str = ""
    eos_token: str = "<end>"
    adds_bos: bool = False
    chat_template: str | None = "{{ messages }}"


def vector_of(text: Text) -> list[float]:
    """Three numbers that tell the text."""
    parts = (text,) if isinstance(text, str) else text
    return [float(len(parts)), float(sum(map(len, parts))), 0.1]


class FakeService:
    """Takes every request that some reader is for, and remembers it; `refusal`, when set, is raised instead.

    A token is a word; its id is its length.
    """

    status = "live"
    is_ready = True
    has_started = True
    last_heartbeat_at = 0.0

    def __init__(self, script: Script | Callable[[Request], Script] = ("Hello", " wörld", "!")) -> None:
        self.metrics = Metrics()
        self.refusal: BaseException | None = None
        self.gate: asyncio.Event | None = None  # what is taken says nothing before this
        self.preparing: asyncio.Event | None = None  # nothing is taken before this
        self.is_asked = asyncio.Event()
        self.generations: list[FakeGeneration] = []
        self.taken = asyncio.Event()  # a request is here
        self.fleet = [FakeReader("smollm2")]
        self.encodings: list[EncodeRequest] = []
        self.calls: list[tuple[Any, ...]] = []  # of the other questions
        self.call_format = CallFormat.HERMES  # of the model
        self.thought: ThoughtStart | None = None  # that answers may begin with
        self.end = FinishReason.STOP  # of what is taken
        self.stop_string: str | None = None  # that it ended at
        self.states: dict[str, bool] = {}  # what waiting for a state comes to
        self._script = script

    @property
    def requests(self) -> list[Request]:
        return [generation.request for generation in self.generations]

    def models(self) -> list[str]:
        return [reader.model_name for reader in self.fleet]

    def readers(self) -> list[FakeReader]:
        return self.fleet

    def model_config(self, reader_id: str) -> dict[str, Any]:
        return {"model_type": "llama", "name": self._reader(reader_id).model_name}

    async def add_reader(self, settings: ReaderSettings) -> FakeReader:
        if self.refusal is not None:
            raise self.refusal
        reader = FakeReader(f"{settings.model}-2", settings, "loading")
        self.fleet.append(reader)
        return reader

    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> FakeReader:
        if self.refusal is not None:
            raise self.refusal
        reader = self._reader(reader_id)
        reader.settings = settings
        return reader

    async def remove_reader(self, reader_id: str) -> None:
        reader = self._reader(reader_id)
        reader.state = "draining"
        if self.gate is not None:
            await self.gate.wait()
        self.fleet.remove(reader)

    async def wait_state(self, state: str, timeout_s: float) -> bool:
        self.calls.append(("wait_state", state, timeout_s))
        await asyncio.sleep(0)
        return self.states.get(state, False)

    async def encode(self, request: EncodeRequest) -> Encoding:
        await self._enter()
        self._check_group(request.group)
        self.encodings.append(request)
        self.taken.set()
        if self.gate is not None:
            await self.gate.wait()
        labels = ("good", "bad", "odd") if request.task is Task.CLASSIFY else ()
        vectors = [vector_of(text) for text in request.texts]
        return Encoding(vectors=vectors, num_tokens=7 * len(vectors), labels=labels, reader_id="smollm2")

    async def tokenize(
        self,
        reader_id: str,
        text: str,
        *,
        use_chat_template: bool | None,
        skip_special_tokens: bool,
        add_special_tokens: bool = True,
    ) -> FakeTokens:
        await self._enter()
        options = (use_chat_template, skip_special_tokens, add_special_tokens)
        self.calls.append(("tokenize", reader_id, text, *options))
        words = text.split()
        return FakeTokens(list(map(len, words)), words)

    async def tokenize_chat(self, reader_id: str, conversation: Conversation) -> FakeTokens:
        await self._enter()
        self.calls.append(("tokenize_chat", reader_id, conversation))
        roles = [message["role"] for message in conversation.messages]
        return FakeTokens(list(map(len, roles)), roles)

    async def detokenize(
        self, reader_id: str, tokens: list[int] | list[str], *, skip_special_tokens: bool
    ) -> str:
        await self._enter()
        self.calls.append(("detokenize", reader_id, tokens, skip_special_tokens))
        return " ".join(map(str, tokens))

    async def describe_vocabulary(self, reader_id: str) -> FakeVocabulary:
        await self._enter()
        self.calls.append(("describe_vocabulary", reader_id))
        return FakeVocabulary()

    async def render_chat(
        self, reader_id: str, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool
    ) -> list[str]:
        await self._enter()
        self.calls.append(("render_chat", reader_id, conversations, add_generation_prompt))
        return ["|".join(f"{role}:{content}" for role, content in each) for each in conversations]

    async def generate(self, request: Request) -> FakeGeneration:
        await self._enter()
        self._check_group(request.group)
        script = self._script(request) if callable(self._script) else self._script
        generation = FakeGeneration(request, script, self.gate)
        generation.call_format = self.call_format
        generation.thought = self.thought
        generation.ends_with, generation.stop_string = self.end, self.stop_string
        self.generations.append(generation)
        self.taken.set()
        return generation

    async def count_tokens(self, request: Request) -> int:
        await self._enter()
        self._check_group(request.group)
        self.calls.append(("count_tokens", request))
        return FakeGeneration(request, (), None).prompt_tokens

    async def _enter(self) -> None:
        self.is_asked.set()
        if self.preparing is not None:
            await self.preparing.wait()
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal

    def _check_group(self, name: str) -> None:
        names = [name for each in self.fleet for name in (each.group, each.reader_id, each.model_name)]
        if name not in names:
            raise NotFound(f"there is no group {name!r}, only primary", param="group")

    def _reader(self, reader_id: str) -> FakeReader:
        for reader in self.fleet:
            if reader.reader_id == reader_id:
                return reader
        raise NotFound(f"there is no reader {reader_id!r}", param="reader_id")


def broken_script() -> Script:
    """Some text, then the engine dies."""
    return ("Hello", " wör", EngineFailed("the engine died while serving: it was killed by signal 9"))


@dataclass
class Answer:
    """What came back: `is_whole` unless the response broke off after its start."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # of one that comes several times a line each
    body: bytes = b""
    is_whole: bool = False
    error: BaseException | None = None  # that the app raised

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                before = self.headers.get(name.decode())
                self.headers[name.decode()] = f"{before}\n{value.decode()}" if before else value.decode()
        else:
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)

    @property
    def detail(self) -> str:
        """What a Takeoff client is told, as text."""
        return str(self.json["detail"])

    def events(self) -> list[Any]:
        """The events of an OpenAI stream, [DONE] as the word."""
        data = [block.removeprefix(b"data: ") for block in self.body.split(b"\n\n") if block]
        return [each.decode() if each == b"[DONE]" else json.loads(each) for each in data]


class Connection:
    """The server's side of one ASGI request; the test plays the client."""

    def __init__(self, chunks: Iterable[bytes], *, spec_version: str, ends: bool = True) -> None:
        self.answer = Answer()
        self.has_left = asyncio.Event()
        self.has_body = asyncio.Event()
        self._chunks = list(chunks)
        self._spec_version = spec_version
        self._ends = ends

    async def receive(self) -> Message:
        if self._chunks:
            body = self._chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._chunks) or not self._ends}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.has_left.is_set():
            if self._spec_version >= "2.4":
                raise OSError("the client has left")
            return
        self.answer.take(message)
        if self.answer.body:
            self.has_body.set()
        await asyncio.sleep(0)

    async def run(self, app: FastAPI, scope: dict[str, Any]) -> Answer:
        scope["asgi"] = {"version": "3.0", "spec_version": self._spec_version}
        try:
            async with asyncio.timeout(LIMIT_S):
                await app(scope, self.receive, self.send)
        except Exception as exc:
            self.answer.error = exc
        return self.answer


def make_scope(method: str, target: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, Any]:
    given = list(headers)
    path, _, query = target.partition("?")
    if not any(name == b"host" for name, _ in given):
        given.append(HOST)
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": given,
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
    }


def ask(
    app: FastAPI,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | list[bytes] = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    ends: bool = True,
) -> Answer:
    """One request to `app`, without a network. A list is a chunked body; `ends` False never ends it."""
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    chunks = [raw] if isinstance(raw, bytes) else raw
    connection = Connection(chunks, spec_version="2.3", ends=ends)
    return asyncio.run(connection.run(app, make_scope(method, path, headers)))


def make_door(
    service: FakeService | None = None,
    door: str = "front",
    *,
    keys: Keyring | None = None,
    logs: Logs | None = None,
    **settings: Any,
) -> FastAPI:
    return MAKERS[door](service or FakeService(), Settings(**settings), ports=PORTS, keys=keys, logs=logs)


def post(service: FakeService, path: str, **body: Any) -> Answer:
    """One JSON body to the front door over `service`."""
    return ask(make_door(service), "POST", path, body)


def post_takeoff(service: FakeService, path: str, **body: Any) -> Answer:
    """One JSON body to the door of the later Takeoff API over `service`."""
    return ask(make_door(service, "takeoff"), "POST", path, body)


def every_error() -> list[type[TakeoffError]]:
    """The leaves and branches of the error tree, without the errors of the command line."""

    def below(kind: type[TakeoffError]) -> list[type[TakeoffError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    return [kind for kind in below(TakeoffError) if kind.__module__ == "takeoff.errors"]


def request_bytes(path: str, body: dict[str, object] | None = None, *headers: bytes) -> bytes:
    """A request on the wire: GET, or POST with a JSON body."""
    raw = b"" if body is None else json.dumps(body).encode()
    method = b"GET" if body is None else b"POST"
    lines = [b"%b %b HTTP/1.1" % (method, path.encode()), b"host: localhost", *headers]
    if body is not None:
        lines.append(b"content-length: %d" % len(raw))
    return b"\r\n".join(lines) + b"\r\n\r\n" + raw


HEALTH = request_bytes("/healthz")
OK = b"HTTP/1.1 200 OK"


class Client:
    """A connection that sends and reads raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """One answer with a content-length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All there is until the server closes."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await self.reader.read(65_536):
                data += piece
        return data

    def leave(self) -> None:
        self.writer.transport.abort()


class OpenDoor:
    """The real server on a free port, and its clients."""

    def __init__(self, app: ASGIApp, settings: Settings, log: RequestLog | None = None) -> None:
        self._door = DoorServer(app, settings, listen(settings.host, settings.port), log)
        self._clients: list[Client] = []
        self.host = settings.host
        self.port = self._door.port
        self.serving = asyncio.create_task(self._door.serve())
        self.stop = self._door.stop
        self.cut = self._door.cut

    async def connect(self, data: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection(self.host, self.port))
        self._clients.append(client)
        client.send(data)
        return client

    async def exchange(self, data: bytes) -> bytes:
        """What comes back until the server closes."""
        return await (await self.connect(data)).rest()

    async def is_serving(self) -> bool:
        client = await self.connect(HEALTH)
        answer = await client.answer()
        client.leave()
        return answer.startswith(OK)

    async def close(self) -> None:
        for client in self._clients:
            client.leave()
        self.stop()
        self.cut()
        await self.serving


@asynccontextmanager
async def open_door(
    service: FakeService | None = None, *, logs: Logs | None = None, **settings: Any
) -> AsyncIterator[OpenDoor]:
    """The real server over `service`, on a free port of the loopback."""
    at_port = Settings(port=0, **settings)
    door = OpenDoor(make_door(service, logs=logs, **settings), at_port, RequestLog.of(logs, at_port))
    try:
        await asyncio.sleep(0)
        yield door
    finally:
        await door.close()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run in the loop that the server uses."""

    async def limited() -> Result:
        async with asyncio.timeout(LIMIT_S):
            return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(limited())
