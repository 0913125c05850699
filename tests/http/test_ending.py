"""A request that is ended by its id: every door tells it in its own way, with what was said before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.http.door import Answer, Connection, FakeGeneration, FakeService, make_door, make_scope
from tests.http.test_keyed import Keys

from takeoff.http.answers import BrokenOff
from takeoff.keys.keyring import Keyring
from takeoff.request import FinishReason, Request

MESSAGES = [{"role": "user", "content": "a"}]
ENDLESS = ("x",) * 1_000_000
NAME = (b"x-request-id", b"mine")

# door, path, body of a whole answer; and what is in it of a text that was cut short
WHOLE: list[tuple[str, str, dict[str, Any], Callable[[Any], object]]] = [
    ("front", "/generate", {"text": "a"}, lambda it: (it["status"], it["message"])),
    ("front", "/v1/completions", {"prompt": "a"}, lambda it: _choice(it, it["choices"][0]["text"])),
    (
        "openai",
        "/v1/chat/completions",
        {"messages": MESSAGES},
        lambda it: _choice(it, it["choices"][0]["message"]["content"]),
    ),
    (
        "front",
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 9},
        lambda it: (it["stop_reason"], it["content"][0]["text"]),
    ),
    ("takeoff", "/generate", {"text": "a"}, lambda it: (it["metadata"]["finish_reason"], it["text"])),
]


def _choice(answer: Any, text: str) -> tuple[str, str]:
    return answer["choices"][0]["finish_reason"], text


class Asked:
    """A request at a door, and what becomes of it."""

    def __init__(
        self, service: FakeService, door: str, path: str, body: dict[str, Any], *headers: Any
    ) -> None:
        self._service = service
        self._keys = Keyring()
        self._app = make_door(service, door, keys=self._keys)
        self._connection = Connection([json.dumps(body).encode()], spec_version="2.3")
        scope = make_scope("POST", path, [NAME, *headers])
        self._task = asyncio.create_task(self._connection.run(self._app, scope))
        self.has_body = self._connection.has_body

    async def end(self, name: str = "mine", door: str = "openai") -> Answer:
        """Ask, at any door, for its end."""
        app = make_door(self._service, door, keys=self._keys)
        return await Connection([b""], spec_version="2.3").run(
            app, make_scope("DELETE", f"/v1/requests/{name}")
        )

    async def answer(self) -> Answer:
        return await self._task


async def said(service: FakeService, num_tokens: int) -> None:
    """Until everybody has said so many tokens."""
    await service.taken.wait()
    while any(generation.completion_tokens < num_tokens for generation in service.generations):  # noqa: ASYNC110  (a few turns of the loop)
        await asyncio.sleep(0)


@pytest.mark.parametrize("door", ["front", "takeoff", "openai"])
@pytest.mark.parametrize(("asked_at", "path", "body", "found"), WHOLE)
def test_a_whole_answer_has_the_text_so_far_and_says_that_it_was_cancelled(
    asked_at: str, path: str, body: dict[str, Any], found: Callable[[Any], object], door: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        asked = Asked(service, asked_at, path, body)
        await said(service, 3)
        told = await asked.end(door=door)
        assert told.json == {"id": "mine", "object": "request", "status": "cancelled"}
        answer = await asked.answer()
        (generation,) = service.generations
        assert answer.status == 200
        assert found(answer.json) == ("cancelled", "x" * generation.completion_tokens)
        assert generation.num_cancelled == 0, "it is ended once"
        assert (await asked.end(door=door)).status == 404

    asyncio.run(run())


@pytest.mark.parametrize(("asked_at", "path", "body", "found"), WHOLE)
def test_before_the_first_token_it_is_an_error(
    asked_at: str, path: str, body: dict[str, Any], found: Callable[[Any], object]
) -> None:
    async def run(reason: FinishReason, status: int, words: str, is_retried: bool) -> None:
        service = FakeService(ENDLESS)
        service.gate = asyncio.Event()
        asked = Asked(service, asked_at, path, body, (b"x-request-timeout", b"7.5"))
        await service.taken.wait()
        service.generations[0].end(reason)
        answer = await asked.answer()
        assert answer.status == status
        assert words in answer.body.decode()
        assert ("x-should-retry" in answer.headers) is not is_retried

    del found
    late = "the 7.5 s of X-Request-Timeout were over before the first token"
    asyncio.run(run(FinishReason.DEADLINE, 504, late, False))
    asyncio.run(run(FinishReason.CANCELLED, 499, "was ended before it had said anything", True))


@pytest.mark.parametrize(("asked_at", "path", "body", "found"), WHOLE)
def test_while_its_prompt_is_prepared_it_is_an_error_and_nothing_is_taken(
    asked_at: str, path: str, body: dict[str, Any], found: Callable[[Any], object]
) -> None:
    async def run() -> None:
        service = FakeService()
        service.preparing = asyncio.Event()
        asked = Asked(service, asked_at, path, body)
        await service.is_asked.wait()
        assert (await asked.end()).status == 200
        assert (await asked.end()).status in (200, 404), "a second one changes nothing"
        answer = await asked.answer()
        assert answer.status == 499
        assert "was ended before it had said anything" in answer.body.decode()
        assert service.generations == []

    del found
    asyncio.run(run())


def test_a_whole_response_has_its_items_and_is_cancelled_or_incomplete() -> None:
    async def run(reason: FinishReason) -> Any:
        service = FakeService(ENDLESS)
        asked = Asked(service, "front", "/v1/responses", {"input": "a"})
        await said(service, 3)
        service.generations[0].end(reason)
        answer = await asked.answer()
        text = "x" * service.generations[0].completion_tokens
        assert answer.json["output"][0]["content"][0]["text"] == text
        return answer.json

    cancelled = asyncio.run(run(FinishReason.CANCELLED))
    assert (cancelled["status"], cancelled["incomplete_details"]) == ("cancelled", None)
    late = asyncio.run(run(FinishReason.DEADLINE))
    assert (late["status"], late["incomplete_details"]) == ("incomplete", {"reason": "deadline"})


STREAMED: list[tuple[str, str, dict[str, Any], str]] = [
    ("front", "/v1/completions", {"prompt": "a", "stream": True}, '"finish_reason":"{}"'),
    ("front", "/v1/completions", {"prompt": ["a", "b"], "stream": True}, '"finish_reason":"{}"'),
    ("openai", "/v1/chat/completions", {"messages": MESSAGES, "stream": True}, '"finish_reason":"{}"'),
    (
        "front",
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 9, "stream": True},
        '"stop_reason":"{}"',
    ),
    ("takeoff", "/generate_stream", {"text": "a", "return_metadata": True}, '"finish_reason":"{}"'),
    ("takeoff", "/generate_stream", {"text": ["a", "b"], "return_metadata": True}, '"finish_reason":"{}"'),
]


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.DEADLINE])
@pytest.mark.parametrize(("door", "path", "body", "words"), STREAMED)
def test_a_stream_ends_properly_and_says_why(
    door: str, path: str, body: dict[str, Any], words: str, reason: FinishReason
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        asked = Asked(service, door, path, body)
        await asked.has_body.wait()
        await said(service, 3)
        if reason is FinishReason.CANCELLED:
            assert (await asked.end()).status == 200
        else:
            for generation in service.generations:
                generation.end(reason)
        answer = await asked.answer()
        assert answer.is_whole
        assert answer.body.decode().count(words.format(reason)) == len(service.generations)

    asyncio.run(run())


SILENT: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/generate_stream", {"text": "a"}),
    ("takeoff", "/generate_stream", {"text": "a"}),
    ("takeoff", "/generate_stream", {"text": ["a", "b"]}),
]


@pytest.mark.parametrize(("door", "path", "body"), SILENT)
def test_a_stream_that_cannot_say_why_breaks_off(door: str, path: str, body: dict[str, Any]) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        asked = Asked(service, door, path, body)
        await asked.has_body.wait()
        await asked.end()
        answer = await asked.answer()
        assert not answer.is_whole
        assert isinstance(answer.error, BrokenOff)
        assert answer.body.count(b"x") >= 1

    asyncio.run(run())


LATE: list[tuple[str, str, dict[str, Any], str]] = [
    ("front", "/v1/completions", {"prompt": "a", "stream": True}, '"code":"deadline_exceeded"'),
    ("front", "/v1/chat/completions", {"messages": MESSAGES, "stream": True}, '"code":"deadline_exceeded"'),
    ("front", "/v1/responses", {"input": "a", "stream": True}, "event: response.failed"),
    (
        "front",
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 9, "stream": True},
        'event: error\ndata: {"type":"error","error":{"type":"timeout_error"',
    ),
]


@pytest.mark.parametrize(("door", "path", "body", "words"), LATE)
def test_a_stream_whose_time_is_over_before_its_first_token_ends_with_an_error(
    door: str, path: str, body: dict[str, Any], words: str
) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.gate = asyncio.Event()
        asked = Asked(service, door, path, body, (b"x-request-timeout", b"2"))
        await service.taken.wait()
        service.generations[0].end(FinishReason.DEADLINE)
        answer = await asked.answer()
        assert answer.is_whole
        assert words in answer.body.decode()
        assert "the 2 s of X-Request-Timeout were over before the first token" in answer.body.decode()

    asyncio.run(run())


def test_a_text_of_several_that_said_nothing_does_not_take_the_others_with_it() -> None:
    async def run() -> None:
        service = FakeService(lambda request: ENDLESS if request.prompt == "a" else ("Hello",))
        asked = Asked(service, "front", "/v1/completions", {"prompt": ["a", "b"]})
        await service.taken.wait()
        service.generations[0].end(FinishReason.DEADLINE)
        answer = await asked.answer()
        told = [(choice["text"], choice["finish_reason"]) for choice in answer.json["choices"]]
        assert told == [("", "deadline"), ("Hello", "stop")]

    asyncio.run(run())


async def _answer_id(asked: Asked) -> str:
    await asked.has_body.wait()
    body = asked._connection.answer.body.decode()
    data = next(line for line in body.splitlines() if line.startswith("data: {"))
    event = json.loads(data.removeprefix("data: "))
    return str(event.get("id") or event.get("message", event.get("response", {})).get("id"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
        ("/v1/responses", {"input": "a"}),
    ],
)
def test_the_id_in_an_answers_body_names_it_too(path: str, body: dict[str, Any]) -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        asked = Asked(service, "front", path, body | {"stream": True})
        assert (await asked.end(await _answer_id(asked))).status == 200
        assert (await asked.answer()).is_whole
        assert service.generations[0].finish_reason is FinishReason.CANCELLED

    asyncio.run(run())


def test_a_response_is_cancelled_as_openais_are() -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        keys = Keyring()
        app = make_door(service, keys=keys)

        async def post(path: str, body: dict[str, Any]) -> Connection:
            connection = Connection([json.dumps(body).encode()], spec_version="2.3")
            await connection.run(app, make_scope("POST", path))
            return connection

        streaming = Connection([b'{"input": "a", "stream": true}'], spec_version="2.3")
        task = asyncio.create_task(streaming.run(app, make_scope("POST", "/v1/responses")))
        await streaming.has_body.wait()
        begun = json.loads(streaming.answer.body.split(b"data: ")[1].split(b"\n")[0])["response"]
        told = (await post(f"/v1/responses/{begun['id']}/cancel", {})).answer
        assert told.json == {"id": begun["id"], "object": "response", "status": "cancelled", "output": []}
        answer = await task
        assert b"event: response.incomplete" in answer.body
        assert b'"status":"cancelled"' in answer.body
        gone = (await post(f"/v1/responses/{begun['id']}/cancel", {})).answer
        assert gone.status == 404
        assert "nothing is stored" in gone.json["error"]["message"]

    asyncio.run(run())


def test_a_key_ends_its_own_requests_only(tmp_path: Path) -> None:
    async def run() -> None:
        keys = Keys(tmp_path / "keys.json")
        alice, bob = keys.add("alice"), keys.add("bob")
        service = FakeService(ENDLESS)
        app = make_door(service, keys=keys.ring)

        def ask(method: str, path: str, *headers: Any, body: bytes = b"") -> Awaitable[Answer]:
            connection = Connection([body], spec_version="2.3")
            return connection.run(app, make_scope(method, path, headers))

        tasks = [
            asyncio.create_task(ask("POST", "/v1/completions", NAME, key, body=b'{"prompt": "a"}'))  # type: ignore[arg-type]
            for key in (alice, alice, bob)
        ]
        while len(service.generations) < 3:  # noqa: ASYNC110  (a few turns of the loop)
            await asyncio.sleep(0)
        assert (await ask("DELETE", "/v1/requests/mine", keys.add("eve"))).status == 404
        assert (await ask("DELETE", "/v1/requests/mine")).status == 401
        assert (await ask("DELETE", "/v1/requests/mine", alice)).status == 200
        assert [each.finish_reason for each in service.generations] == [FinishReason.CANCELLED] * 2 + [None]
        assert (await ask("DELETE", "/v1/requests/mine", bob)).status == 200
        for answer in await asyncio.gather(*tasks):
            assert answer.json["choices"][0]["finish_reason"] == "cancelled"

    asyncio.run(run())


def test_texts_of_one_request_end_together_and_those_that_are_not_taken_yet_are_not_begun() -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        asked = Asked(service, "takeoff", "/generate", {"text": ["a", "b"]})
        await said(service, 2)
        await asked.end()
        answer = await asked.answer()
        assert [each["finish_reason"] for each in answer.json["metadata"]] == ["cancelled"] * 2

    asyncio.run(run())


def test_texts_that_are_not_taken_yet_are_not_begun() -> None:
    class Slow(FakeService):
        """Takes the first of several texts only."""

        async def generate(self, request: Request) -> FakeGeneration:
            if self.generations:
                self.is_asked.clear()
                self.preparing = asyncio.Event()
            return await super().generate(request)

    async def run() -> None:
        service = Slow(ENDLESS)
        asked = Asked(service, "takeoff", "/generate", {"text": ["a", "b", "c"]})
        await service.taken.wait()
        await service.is_asked.wait()
        await asked.end()
        assert (await asked.answer()).status == 499
        assert [each.finish_reason for each in service.generations] == [FinishReason.CANCELLED]

    asyncio.run(run())


def test_an_encoder_is_ended_too() -> None:
    async def run() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        asked = Asked(service, "front", "/v1/embeddings", {"input": "a"})
        await service.taken.wait()
        assert (await asked.end()).status == 200
        assert (await asked.answer()).status == 499

    asyncio.run(run())
