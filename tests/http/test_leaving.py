"""A client may leave at any moment: what it asked for is cancelled, once, and nothing is an error."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.http.door import Connection, FakeService, make_door, make_scope

from takeoff.request import EncodeRequest, Encoding

ENDLESS = ("x",) * 1_000_000
MESSAGE = {"max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
STREAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/generate_stream", {"text": "a"}),
    ("front", "/v1/completions", {"prompt": "a", "stream": True}),
    ("front", "/v1/completions", {"prompt": ["a", "b"], "n": 2, "stream": True}),
    ("front", "/v1/messages", {**MESSAGE, "stream": True}),
    ("takeoff", "/generate_stream", {"text": "a", "return_metadata": True}),
    ("takeoff", "/generate_stream", {"text": ["a", "b", "c"]}),
]
WHOLE: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/generate", {"text": "a"}),
    ("front", "/generate", {"text": ["a", "b", "c"]}),
    ("front", "/v1/completions", {"prompt": "a"}),
    ("front", "/v1/completions", {"prompt": ["a", "b"], "n": 2}),
    ("front", "/v1/messages", MESSAGE),
    ("takeoff", "/generate", {"text": ["a", "b"]}),
]
both_versions = pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
streamed = pytest.mark.parametrize(("door", "path", "body"), STREAMED)
whole = pytest.mark.parametrize(("door", "path", "body"), WHOLE)


async def leave(
    service: FakeService,
    door: str,
    path: str,
    body: dict[str, Any],
    spec_version: str,
    when: Callable[[Connection], Awaitable[object]],
) -> Connection:
    """Ask, wait for the moment, leave, and wait until the app has ended."""
    connection = Connection([json.dumps(body).encode()], spec_version=spec_version)
    task = asyncio.create_task(connection.run(make_door(service, door), make_scope("POST", path)))
    await when(connection)
    connection.has_left.set()
    await task
    assert connection.answer.error is None
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing of it goes on"
    return connection


def count(body: dict[str, Any]) -> int:
    prompt = body.get("text", body.get("prompt"))
    return (len(prompt) if isinstance(prompt, list) else 1) * int(body.get("n", 1))


def assert_all_cancelled_once(service: FakeService, body: dict[str, Any]) -> None:
    assert [generation.num_cancelled for generation in service.generations] == [1] * count(body)


@both_versions
@streamed
def test_leaving_a_stream_before_its_first_byte_cancels_once(
    door: str, path: str, body: dict[str, Any], spec_version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When the first of its texts is taken; of several the others may not be any more."""

    async def run() -> None:
        service = FakeService(ENDLESS)
        connection = await leave(service, door, path, body, spec_version, lambda _it: service.taken.wait())
        assert connection.answer.body == b""
        assert {generation.num_cancelled for generation in service.generations} == {1}

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert caplog.messages == []


@both_versions
@streamed
def test_leaving_a_stream_that_waits_for_its_first_token_cancels_once(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.gate = asyncio.Event()

        async def is_waiting(_connection: Connection) -> None:
            await service.taken.wait()
            await asyncio.gather(*(generation.is_asked.wait() for generation in service.generations))
            if spec_version == "2.4":  # such a server tells it with the next thing that is sent
                asyncio.get_running_loop().call_later(0.02, service.gate.set)  # type: ignore[union-attr]

        connection = await leave(service, door, path, body, spec_version, is_waiting)
        assert connection.answer.body == b""
        assert_all_cancelled_once(service, body)

    asyncio.run(run())


@both_versions
@streamed
def test_leaving_in_the_middle_of_a_stream_cancels_once(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        connection = await leave(service, door, path, body, spec_version, lambda it: it.has_body.wait())
        assert not connection.answer.is_whole
        assert_all_cancelled_once(service, body)

    asyncio.run(run())


@both_versions
@whole
def test_leaving_before_an_unstreamed_answer_cancels_once(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.gate = asyncio.Event()

        async def is_waiting(_connection: Connection) -> None:
            while len(service.generations) < count(body):  # noqa: ASYNC110  (a few turns of the loop)
                await asyncio.sleep(0)
            await asyncio.gather(*(generation.is_asked.wait() for generation in service.generations))

        connection = await leave(service, door, path, body, spec_version, is_waiting)
        assert connection.answer.body == b""
        assert_all_cancelled_once(service, body)

    asyncio.run(run())


@both_versions
@pytest.mark.parametrize(("door", "path", "body"), [*STREAMED, *WHOLE])
def test_leaving_while_the_prompt_is_prepared_takes_nothing(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.preparing = asyncio.Event()
        await leave(service, door, path, body, spec_version, lambda _it: service.is_asked.wait())
        service.preparing.set()
        await asyncio.sleep(0.01)
        assert service.generations == []

    asyncio.run(run())


def test_a_stream_that_is_kept_is_prepared_without_its_client() -> None:
    async def run() -> None:
        service = FakeService()
        service.preparing = asyncio.Event()
        app = make_door(service)
        headers = [(b"x-resume", b"10"), (b"x-request-id", b"mine")]
        connection = Connection([b'{"prompt": "a", "stream": true}'], spec_version="2.3")
        task = asyncio.create_task(connection.run(app, make_scope("POST", "/v1/completions", headers)))
        await service.is_asked.wait()
        connection.has_left.set()
        await asyncio.sleep(0.01)
        service.preparing.set()
        await task
        again = Connection([b""], spec_version="2.3")
        resumed = await again.run(app, make_scope("GET", "/v1/requests/mine"))
        texts = [line for line in resumed.body.split(b"\n") if b'"text":"' in line]
        assert b"".join(texts).count(b"w\xc3\xb6rld") == 1
        assert resumed.body.endswith(b"data: [DONE]\n\n")

    asyncio.run(run())


@both_versions
@pytest.mark.parametrize(("door", "path", "body"), [*STREAMED, *WHOLE])
def test_what_ends_by_itself_is_not_cancelled(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    async def run() -> None:
        service = FakeService()
        connection = Connection([json.dumps(body).encode()], spec_version=spec_version)
        await connection.run(make_door(service, door), make_scope("POST", path))
        assert connection.answer.is_whole
        assert [generation.num_cancelled for generation in service.generations] == [0] * count(body)

    asyncio.run(run())


ENCODED = [
    ("takeoff", "/embed", {"text": ["a", "b"]}),
    ("takeoff", "/classify", {"text": [["a", "b"]]}),
    ("front", "/v1/embeddings", {"input": "a"}),
    ("front", "/v1/classify", {"input": "a"}),
    ("openai", "/rerank", {"query": "a", "documents": ["a", "b"]}),
]


@both_versions
@pytest.mark.parametrize(("door", "path", "body"), ENCODED)
def test_leaving_an_encoder_cancels_what_it_was_asked(
    door: str, path: str, body: dict[str, Any], spec_version: str
) -> None:
    class Watched(FakeService):
        was_cancelled = False

        async def encode(self, request: EncodeRequest) -> Encoding:
            try:
                return await super().encode(request)
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise

    async def run() -> None:
        service = Watched()
        service.gate = asyncio.Event()
        connection = await leave(service, door, path, body, spec_version, lambda _it: service.taken.wait())
        assert connection.answer.body == b""
        assert service.was_cancelled

    asyncio.run(run())
