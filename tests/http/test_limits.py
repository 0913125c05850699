"""How much a body may be and how long it may take. Without a network."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.http.door import Connection, FakeService, ask, make_door, make_scope

LIMIT = 2_000
HINT = "send less, or serve with a larger --max-body-bytes"
PATHS = ["/generate", "/generate_stream", "/v1/completions"]


def message_of(answer_json: dict[str, object], path: str) -> str:
    if path.startswith("/v1/"):
        error = answer_json["error"]
        assert isinstance(error, dict)
        return str(error["message"])
    return str(answer_json["detail"])


def body_of(num_bytes: int) -> bytes:
    """A JSON body of that length."""
    empty = len(json.dumps({"text": "", "prompt": "a"}))
    return json.dumps({"text": "x" * (num_bytes - empty), "prompt": "a"}).encode()


@pytest.mark.parametrize("path", PATHS)
def test_a_body_announced_too_large_is_refused_unread_with_both_numbers(path: str) -> None:
    service = FakeService()
    app = make_door(service, max_body_bytes=LIMIT)
    announced = [(b"content-length", b"50000000")]
    answer = ask(app, "POST", path, b"", announced, ends=False)
    assert answer.status == 413
    assert message_of(answer.json, path) == f"the body has 50000000 bytes, the limit is 2000 ({HINT})"
    assert service.requests == []


@pytest.mark.parametrize("path", PATHS)
def test_a_chunked_body_is_refused_when_it_passes_the_limit(path: str) -> None:
    service = FakeService()
    app = make_door(service, max_body_bytes=LIMIT)
    answer = ask(app, "POST", path, [b"x" * 900] * 1_000_000)
    assert answer.status == 413
    assert message_of(answer.json, path) == f"the body has more than 2000 bytes, which is the limit ({HINT})"
    assert service.requests == []


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    app = make_door(max_body_bytes=LIMIT)
    exact = body_of(LIMIT)
    assert len(exact) == LIMIT
    assert ask(app, "POST", "/generate", exact).status == 200
    assert ask(app, "POST", "/generate", [exact[i : i + 7] for i in range(0, LIMIT, 7)]).status == 200
    assert ask(app, "POST", "/generate", body_of(LIMIT + 1)).status == 413


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sent", [b"", b'{"text":'])
def test_a_body_that_never_ends_is_refused_after_its_time(path: str, sent: bytes) -> None:
    service = FakeService()
    answer = ask(make_door(service, body_timeout_s=0.05), "POST", path, [sent], ends=False)
    assert answer.status == 408
    assert message_of(answer.json, path) == "the body did not arrive within 0.05 s"
    assert answer.headers["connection"] == "close"
    assert service.requests == []


def test_a_body_in_many_pieces_is_the_same_body() -> None:
    service = FakeService()
    raw = json.dumps({"text": "wörld 東京"}, ensure_ascii=False).encode()
    answer = ask(make_door(service), "POST", "/generate", [raw[i : i + 1] for i in range(len(raw))])
    assert answer.status == 200
    assert [request.prompt for request in service.requests] == ["wörld 東京"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_client_that_leaves_before_its_body_ended_reaches_nobody(path: str, spec_version: str) -> None:
    service = FakeService()

    async def leave() -> Connection:
        connection = Connection([b'{"text": "a", "prompt'], spec_version=spec_version, ends=False)
        connection.has_left.set()
        await connection.run(make_door(service), make_scope("POST", path))
        return connection

    connection = asyncio.run(leave())
    assert connection.answer.error is None
    assert connection.answer.status == 0
    assert service.requests == []


def test_strangers_are_refused_before_their_body_is_read() -> None:
    app = make_door(api_key="secret", body_timeout_s=600)
    assert ask(app, "POST", "/generate", [b"x"], ends=False).status == 401
    assert ask(app, "POST", "/generate", [b"x"], [(b"host", b"evil.example")], ends=False).status == 403
