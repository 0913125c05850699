"""What a client says of its request in headers: its id comes back, its time goes to the service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.http.door import Connection, FakeService, ask, make_door, make_scope

MESSAGES = [{"role": "user", "content": "a"}]
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/generate", {"text": "a"}),
    ("front", "/generate_stream", {"text": "a"}),
    ("front", "/v1/completions", {"prompt": "a"}),
    ("front", "/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
    ("openai", "/v1/responses", {"input": "a"}),
    ("openai", "/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    ("takeoff", "/generate", {"text": ["a", "b"]}),
    ("takeoff", "/generate_stream", {"text": "a"}),
]
every_door = pytest.mark.parametrize(("door", "path", "body"), ASKED)


def timeout(value: str) -> tuple[bytes, bytes]:
    return b"x-request-timeout", value.encode("latin-1")


def named(value: str) -> tuple[bytes, bytes]:
    return b"x-request-id", value.encode("latin-1")


@every_door
def test_an_answer_carries_the_id_that_its_client_gave_it_or_a_new_one(
    door: str, path: str, body: dict[str, Any]
) -> None:
    app = make_door(FakeService(), door)
    given = ask(app, "POST", path, body, [named("my:request-1")])
    assert given.headers["x-request-id"] == "my:request-1"
    made = [ask(app, "POST", path, body).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(each.startswith("req_") and len(each) == 36 for each in made)


def test_anthropics_header_and_errors_have_the_same_id() -> None:
    app = make_door(FakeService(), "front")
    whole = ask(app, "POST", "/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, [named("mine")])
    assert whole.headers["request-id"] == whole.headers["x-request-id"] == "mine"
    refused = ask(app, "POST", "/v1/messages", {"max_tokens": 9}, [named("mine")])
    assert refused.headers["request-id"] == refused.headers["x-request-id"] == "mine"
    assert refused.json["request_id"] == "mine"


@every_door
def test_the_time_that_is_left_of_the_clients_goes_with_every_request(
    door: str, path: str, body: dict[str, Any]
) -> None:
    service = FakeService()
    assert ask(make_door(service, door), "POST", path, body, [timeout("86400")]).status == 200
    assert ask(make_door(service, door), "POST", path, body).status == 200
    *limited, unlimited = [request.deadline_s for request in service.requests]
    if isinstance(body.get("text"), list):
        unlimited = limited.pop()
    assert unlimited is None
    assert all(left is not None and 86_370 < left <= 86_400 for left in limited)


def test_encoders_and_counts_of_tokens_have_their_time_too() -> None:
    service = FakeService()
    app = make_door(service)
    assert ask(app, "POST", "/v1/embeddings", {"input": "a"}, [timeout("9.5")]).status == 200
    (request,) = service.encodings
    assert request.deadline_s is not None
    assert 0 < request.deadline_s <= 9.5
    assert (
        ask(app, "POST", "/v1/messages/count_tokens", {"messages": MESSAGES}, [timeout("9.5")]).status == 200
    )
    ((_, counted),) = service.calls
    assert 0 < counted.deadline_s <= 9.5


def test_time_counts_from_the_header_on() -> None:
    async def run() -> None:
        service = FakeService()
        connection = Connection([], spec_version="2.3")
        held = asyncio.Event()
        body = json.dumps({"prompt": "a"}).encode()

        async def receive() -> dict[str, Any]:
            if not held.is_set():
                held.set()
                await asyncio.sleep(0.2)
                return {"type": "http.request", "body": body}
            return dict(await Connection.receive(connection))

        connection.receive = receive  # type: ignore[method-assign]
        await connection.run(make_door(service), make_scope("POST", "/v1/completions", [timeout("5")]))
        (request,) = service.requests
        assert request.deadline_s is not None
        assert 3 < request.deadline_s <= 4.8

    asyncio.run(run())


@pytest.mark.parametrize("value", ["", "0", "0.000", "-1", "1e3", "nan", "inf", "86401", "5 s", "½", "0x1"])
@every_door
def test_a_time_that_is_none_is_refused_by_name(
    door: str, path: str, body: dict[str, Any], value: str
) -> None:
    service = FakeService()
    refused = ask(make_door(service, door), "POST", path, body, [timeout(value)])
    assert refused.status == 400
    told = "X-Request-Timeout must be a number of seconds above 0, at most 86400, got "
    assert told in json.dumps(refused.json)
    assert service.requests == []


@pytest.mark.parametrize("value", ["", "a b", "a/b", "ä", "x" * 129, "a\x00"])
def test_an_id_that_can_be_no_path_is_refused_by_name(value: str) -> None:
    service = FakeService()
    refused = ask(make_door(service), "POST", "/v1/completions", {"prompt": "a"}, [named(value)])
    assert refused.status == 400
    assert refused.json["error"]["param"] == "X-Request-Id"
    assert service.requests == []


def test_what_is_no_work_has_no_terms() -> None:
    """A proxy may put what it likes on a probe."""
    answer = ask(make_door(), "GET", "/healthz", headers=[timeout("never"), named("a b")])
    assert answer.status == 200
    assert "x-request-id" not in answer.headers
