"""A line for each request: who, how much, how it ended; and nothing of what was sent or shown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.http.door import (
    Connection,
    FakeService,
    ask,
    broken_script,
    make_door,
    make_scope,
    open_door,
    request_bytes,
    run,
)
from tests.http.test_guard import bearer
from tests.http.test_keyed import Keys

from takeoff.errors import EngineFailed, NotReady, Overloaded, PromptTooLong
from takeoff.observe.lines import Logs

PROMPT = "tell nobody of the whale"
NAME = (b"x-request-id", b"mine")
STREAM = {"prompt": PROMPT, "stream": True}
COUNTS = ("texts", "prompt_tokens", "cached_tokens", "completion_tokens")


class Told(list[dict[str, Any]]):
    """The lines of a log."""

    @property
    def logs(self) -> Logs:
        return Logs(requests=self.append, audit=None)

    @property
    def only(self) -> dict[str, Any]:
        (line,) = self
        return line


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def times_of(line: dict[str, Any]) -> list[float]:
    return [line.pop(name) for name in ("queue_s", "ttft_s", "total_s")]


@pytest.mark.parametrize("body", [{"prompt": PROMPT}, STREAM], ids=["whole", "streamed"])
def test_the_line_of_an_answer(told: Told, keys: Keys, body: dict[str, Any]) -> None:
    alice = keys.add("alice")
    app = make_door(keys=keys.ring, logs=told.logs)
    assert ask(app, "POST", "/v1/completions", body, [alice, NAME]).is_whole
    line = told.only
    queue_s, ttft_s, total_s = times_of(line)
    assert queue_s == 0.25
    assert 0.0 <= ttft_s <= total_s < 1.0
    assert line == {
        "event": "request",
        "id": "mine",
        "key_id": keys.tenant("alice").removeprefix("key:"),
        "key": "alice",
        "client": "127.0.0.1",
        "port": 8000,
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "state": "stop",
        "reader": "smollm2",
        "texts": 1,
        "prompt_tokens": len(PROMPT),
        "cached_tokens": 1,
        "completion_tokens": 3,
    }


def test_texts_of_one_request_are_added_up_and_the_worst_end_is_its_end(told: Told) -> None:
    service = FakeService(lambda request: ("x",) if request.prompt == "a" else broken_script())
    app = make_door(service, "takeoff", logs=told.logs)
    ask(app, "POST", "/generate_stream", {"text": ["a", "bc"]})
    line = told.only
    assert [line[name] for name in COUNTS] == [2, 3, 2, 3]
    assert (line["status"], line["state"]) == (200, "failed")
    assert "error" not in line


def test_encoders_are_told_of_too(told: Told) -> None:
    ask(make_door(logs=told.logs), "POST", "/v1/embeddings", {"input": [PROMPT, "b"]})
    line = told.only
    assert [line[name] for name in COUNTS] == [1, 14, 0, 0]
    assert (line["path"], line["reader"], line["state"]) == ("/v1/embeddings", "smollm2", "done")
    assert "ttft_s" not in line


REFUSED = [
    (Overloaded("7 requests are open", retry_after_s=1), 429, "refused", "overloaded", "7 requests are open"),
    (NotReady("the server is shutting down"), 503, "refused", "not_ready", "the server is shutting down"),
    (PromptTooLong.beyond(9, 8), 400, "refused", "context_length_exceeded", None),
    (EngineFailed(f"it died of {PROMPT}"), 503, "failed", "engine_failed", None),
    (RuntimeError(PROMPT), 500, "failed", "internal_error", None),
]


@pytest.mark.parametrize(("refusal", "status", "state", "error", "reason"), REFUSED)
def test_a_refusal_is_told_with_its_reason(
    told: Told, refusal: Exception, status: int, state: str, error: str, reason: str | None
) -> None:
    service = FakeService()
    service.refusal = refusal
    assert (
        ask(make_door(service, logs=told.logs), "POST", "/v1/completions", {"prompt": PROMPT}).status
        == status
    )
    line = told.only
    assert [line[name] for name in ("status", "state", "error")] == [status, state, error]
    assert line.get("reason") == reason
    assert PROMPT not in json.dumps(told)


def test_a_key_that_has_used_up_its_limit_is_told_by_name_and_id(told: Told, keys: Keys) -> None:
    alice = keys.add("alice", requests_per_minute=1)
    app = make_door(keys=keys.ring, logs=told.logs)
    for _ in range(2):
        ask(app, "POST", "/v1/completions", {"prompt": PROMPT}, [alice, NAME])
    line = told[1]
    assert [line[name] for name in ("id", "key", "status", "error")] == [
        *("mine", "alice", 429, "rate_limit_exceeded")
    ]
    assert line["reason"].startswith("the key 'alice' has used its 1 requests a minute")
    assert line["path"] == "/v1/completions"


SECRET = b"tk-0123456789abcdefghijklmnopqrstuv"
HEADERS = [
    bearer(SECRET),
    (b"x-api-key", SECRET),
    (b"cookie", SECRET),
    (b"authorization", b"Basic " + SECRET),
]


@pytest.mark.parametrize("header", HEADERS)
def test_who_is_nobody_is_told_by_his_address_alone(
    told: Told, keys: Keys, header: tuple[bytes, bytes]
) -> None:
    keys.add("alice")
    app = make_door(keys=keys.ring, logs=told.logs)
    target = f"/v1/requests/{SECRET.decode()}?api_key={SECRET.decode()}"
    for method, path in (("POST", "/v1/completions"), ("DELETE", target), ("GET", f"/{SECRET.decode()}")):
        ask(app, method, path, {"prompt": PROMPT}, [header, NAME])
    assert [line["path"] for line in told] == ["/v1/completions", "/v1/requests/:request_id", "other"]
    for line in told:
        assert (line["status"], line["state"], line["error"]) == (401, "refused", "unauthorized")
        assert line["client"] == "127.0.0.1"
        assert line["reason"].startswith("a valid API key is required")
        assert not {"id", "key", "key_id", "prompt_tokens"} & line.keys()
    assert SECRET.decode() not in json.dumps(told)


def test_a_key_without_the_scope_is_told_with_its_name(told: Told, keys: Keys) -> None:
    alice = keys.add("alice")
    ask(make_door(door="management", keys=keys.ring, logs=told.logs), "DELETE", "/reader/x", headers=[alice])
    line = told.only
    assert [line[name] for name in ("key", "path", "status", "error")] == [
        *("alice", "/reader/:reader_id", 403, "forbidden")
    ]


SENT: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/v1/completions", {"prompt": 1, PROMPT: 2}),
    ("front", "/v1/completions", {"prompt": "a", "model": PROMPT}),
    ("front", "/v1/completions", {"prompt": "a", "stop": [PROMPT * 100]}),
    ("front", "/v1/chat/completions", {"messages": [{"role": PROMPT, "content": "a"}]}),
    ("front", "/v1/messages", {"messages": [{"role": "user", "content": "a", PROMPT: 1}], "max_tokens": 1}),
    ("front", "/generate", {"text": ["a"], "sampling_topk": PROMPT}),
    ("takeoff", "/generate", {"text": "a", "consumer_group": PROMPT}),
    ("takeoff", f"/tokenize/{PROMPT.replace(' ', '-')}", {"text": PROMPT}),
    ("management", "/reader", {"model_name": "x", "max_batch_size": PROMPT}),
]


@pytest.mark.parametrize(("door", "path", "body"), SENT)
def test_a_body_that_is_wrong_is_told_by_the_code_of_its_error(
    told: Told, door: str, path: str, body: dict[str, Any]
) -> None:
    answer = ask(make_door(door=door, logs=told.logs), "POST", path, body)
    line = told.only
    assert 400 <= line["status"] == answer.status < 500
    assert line["state"] == "refused"
    assert line["error"] in ("invalid_request", "invalid_body", "not_found")
    assert "reason" not in line
    assert "whale" not in json.dumps(told)


def test_probes_are_told_of_only_if_they_are_refused(told: Told, keys: Keys) -> None:
    app = make_door(keys=keys.ring, logs=told.logs)
    for path in ("/healthz", "/livez", "/readyz", "/startupz"):
        assert ask(app, "GET", path).status == 200
    assert told == []
    ask(app, "GET", "/healthz?state=live")
    assert [told.only[name] for name in ("path", "status")] == ["/healthz", 401]


@pytest.mark.parametrize("body", [{"prompt": PROMPT}, STREAM], ids=["whole", "streamed"])
def test_a_client_that_leaves_is_told_of_as_cancelled(told: Told, body: dict[str, Any]) -> None:
    async def leave() -> None:
        service = FakeService(("x",) * 100_000)
        service.gate = asyncio.Event()
        connection = Connection([json.dumps(body).encode()], spec_version="2.3")
        app = make_door(service, logs=told.logs)
        task = asyncio.create_task(connection.run(app, make_scope("POST", "/v1/completions")))
        await service.taken.wait()
        connection.has_left.set()
        await task

    asyncio.run(leave())
    assert (told.only["state"], told.only["completion_tokens"]) == ("cancelled", 0)


def test_a_stream_that_is_kept_is_told_of_when_all_of_it_has_ended(told: Told) -> None:
    async def leave_and_come_back() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        app = make_door(service, logs=told.logs)
        connection = Connection([json.dumps(STREAM).encode()], spec_version="2.3")
        scope = make_scope("POST", "/v1/completions", [NAME, (b"x-resume", b"10")])
        task = asyncio.create_task(connection.run(app, scope))
        await service.taken.wait()
        await service.generations[0].is_asked.wait()
        connection.has_left.set()
        await task
        assert told == []
        service.gate.set()
        again = Connection([b""], spec_version="2.3")
        assert (await again.run(app, make_scope("GET", "/v1/requests/mine"))).is_whole

    asyncio.run(leave_and_come_back())
    made, resumed = told
    assert [made[name] for name in ("id", "path", "state", "completion_tokens")] == [
        *("mine", "/v1/completions", "stop", 3)
    ]
    assert [resumed[name] for name in ("id", "path", "state")] == [
        *("mine", "/v1/requests/:request_id", "done")
    ]


ASKED: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("/v1/completions", {"prompt": PROMPT}, [PROMPT]),
    ("/v1/completions", {"prompt": [5, 6]}, [[5, 6]]),
    ("/v1/embeddings", {"input": [PROMPT, "b"]}, [PROMPT, "b"]),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": PROMPT}]},
        [[{"role": "user", "content": PROMPT}]],
    ),
]


@pytest.mark.parametrize(("path", "body", "prompts"), ASKED)
def test_prompts_are_told_only_where_the_settings_say_so(
    told: Told, path: str, body: dict[str, Any], prompts: list[Any]
) -> None:
    ask(make_door(logs=told.logs), "POST", path, body)
    assert "prompts" not in told.only
    ask(make_door(logs=told.logs, log_prompts=True), "POST", path, body)
    assert json.loads(json.dumps(told[1]["prompts"])) == prompts


def test_addresses_can_be_left_out(told: Told) -> None:
    ask(make_door(logs=told.logs, log_addresses=False), "GET", "/v1/models")
    assert "client" not in told.only


def test_a_connection_that_is_refused_has_a_line(told: Told) -> None:
    async def exchange() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service, logs=told.logs, max_connections=1, max_header_bytes=1_024) as door:
            first = await door.connect(request_bytes("/generate", {"text": "a"}))
            await service.taken.wait()
            await door.exchange(request_bytes("/healthz"))
            first.leave()
            await asyncio.sleep(0.05)
            await door.exchange(request_bytes("/healthz", None, b"a: " + b"whale" * 1_000))

    run(exchange())
    assert [(line["event"], line["status"], line["state"]) for line in told] == [
        ("connection", 503, "refused"),
        ("request", 499, "cancelled"),
        ("connection", 431, "refused"),
    ]
    assert told[0]["reason"] == "1 connections are open, which is the limit"
    assert "whale" not in json.dumps(told)


def test_who_changes_readers_is_told_with_what_and_no_secret(keys: Keys) -> None:
    audit: list[dict[str, Any]] = []
    root = keys.add("root", scopes=("admin",))
    app = make_door(door="management", keys=keys.ring, logs=Logs(requests=None, audit=audit.append))
    model = "https://models.example/a.gguf"
    body = {"model_name": f"{model}?token=whale", "consumer_group": "chat", "access_token": "whale"}
    reader_id = ask(app, "POST", "/reader", body, [root]).json["reader_id"]
    assert ask(app, "DELETE", "/reader/nobody", headers=[root]).status == 404
    assert ask(app, "PUT", "/reader/smollm2", {"model_name": "other"}, [root]).status == 200
    assert ask(app, "DELETE", "/reader/smollm2", headers=[root]).status == 204
    by = {"key_id": keys.tenant("root").removeprefix("key:"), "key": "root"}
    assert audit == [
        {
            "event": "reader_added",
            "by": by,
            "reader": {"id": reader_id, "model": model, "group": "chat"},
        },
        *(
            {"event": event, "by": by, "reader": {"id": "smollm2", "model": "other", "group": "primary"}}
            for event in ("reader_replaced", "reader_removed")
        ),
    ]
