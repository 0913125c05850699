"""What each key opens at every door, on what account, and which models it sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from tests.http.door import (
    MAKERS,
    Answer,
    Connection,
    FakeReader,
    FakeService,
    ask,
    make_door,
    make_scope,
)
from tests.http.test_guard import BODY, bearer, every_route
from tests.keys.made import make_key, write_keys
from tests.keys.test_keyring import Clock

from takeoff.http.guard import OPEN_PATHS
from takeoff.keys.key import Scope
from takeoff.keys.keyring import LOOK_EVERY_S, Keyring
from takeoff.settings import ReaderSettings

CHAT = {"messages": [{"role": "user", "content": "Say yes."}]}
OPENED_BY = {  # the scopes of what is not the door's own
    ("front", "/metrics"): {Scope.METRICS},
    ("management", "/metrics"): {Scope.METRICS},
    ("management", "/status"): {Scope.ADMIN, Scope.METRICS},
    ("takeoff", "/status"): {Scope.INFERENCE, Scope.METRICS},
}


class Keys:
    """A file of keys, the ring of a server over it, and the secrets by name."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self._path = path
        self._made: list[Any] = []
        self.secrets: dict[str, str] = {}
        write_keys(path)
        self.ring = Keyring(None, path, clock=self.clock)

    def add(self, name: str, **values: Any) -> tuple[bytes, bytes]:
        """A header that shows a new key."""
        key, secret = make_key(name, **values)
        self._made.append(key)
        write_keys(self._path, *self._made)
        self.clock.now += LOOK_EVERY_S
        return bearer(secret.encode())

    def tenant(self, name: str) -> str:
        return next(f"key:{key.id}" for key in self._made if key.name == name)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def two_models() -> FakeService:
    service = FakeService()
    service.fleet = [
        FakeReader("small-1", ReaderSettings(model="small", consumer_group="chat")),
        FakeReader("large-1", ReaderSettings(model="large", consumer_group="experts")),
    ]
    return service


def post(app: FastAPI, path: str, header: tuple[bytes, bytes], **body: Any) -> Answer:
    return ask(app, "POST", path, body, [header])


# --- scopes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", MAKERS)
@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_of_another_scope_opens_no_route(keys: Keys, door: str, scope: Scope) -> None:
    header = keys.add("k", scopes=(scope,))
    service = FakeService()
    app = make_door(service, door, keys=keys.ring)
    own = Scope.ADMIN if door == "management" else Scope.INFERENCE
    num_refused = 0
    for method, path in every_route(app):
        opened_by = set(Scope) if path in OPEN_PATHS else OPENED_BY.get((door, path), {own})
        answer = ask(app, method, path, BODY, [header])
        if scope in opened_by:
            assert answer.status not in (401, 403), (method, path)
            continue
        num_refused += 1
        assert answer.status == 403, (method, path)
        if method != "HEAD":
            assert "does not open this: it takes the scope" in answer.body.decode()
    assert num_refused > 0 or scope is own
    if scope is not own:
        assert (service.requests, service.encodings, service.calls) == ([], [], [])
        assert [reader.state for reader in service.fleet] == ["live"]


def test_refusals_have_the_shape_of_their_door(keys: Keys) -> None:
    header = keys.add("watcher", scopes=(Scope.METRICS,))
    said = "the API key 'watcher' does not open this: it takes the scope inference"
    front = make_door(keys=keys.ring)
    openai = post(front, "/v1/chat/completions", header, **CHAT)
    assert openai.json == {
        "error": {"message": said, "type": "invalid_request_error", "param": None, "code": "forbidden"}
    }
    anthropic = post(front, "/v1/messages", header, **CHAT)
    assert anthropic.json["error"] == {"type": "permission_error", "message": said}
    assert post(front, "/generate", header, text="a").json == {"detail": said}
    assert post(make_door(door="takeoff", keys=keys.ring), "/generate", header, text="a").detail == said


def test_a_key_of_several_scopes_opens_what_each_opens(keys: Keys) -> None:
    header = keys.add("root", scopes=(Scope.ADMIN, Scope.METRICS))
    assert (
        ask(make_door(door="management", keys=keys.ring), "GET", "/reader_groups", b"", [header]).status
        == 200
    )
    front = make_door(keys=keys.ring)
    assert ask(front, "GET", "/metrics", b"", [header]).status == 200
    assert post(front, "/v1/completions", header, prompt="a").status == 403


# --- in whose name -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("door", "path", "body"),
    [
        ("front", "/generate", {"text": "a"}),
        ("front", "/generate_stream", {"text": "a"}),
        ("front", "/v1/completions", {"prompt": "a"}),
        ("front", "/v1/completions", {"prompt": ["a", "b"], "stream": True}),
        ("front", "/v1/chat/completions", CHAT),
        ("front", "/v1/chat/completions", CHAT | {"stream": True}),
        ("front", "/v1/responses", {"input": "a"}),
        ("front", "/v1/messages", CHAT | {"max_tokens": 8, "model": "smollm2"}),
        ("openai", "/v1/chat/completions", CHAT),
        ("takeoff", "/generate", {"text": ["a", "b"]}),
        ("takeoff", "/generate_stream", {"text": "a"}),
    ],
)
def test_what_generates_is_in_the_name_of_the_key(
    keys: Keys, door: str, path: str, body: dict[str, Any]
) -> None:
    alice, bob = keys.add("alice"), keys.add("bob", priority=25)
    service = FakeService()
    app = make_door(service, door, keys=keys.ring)
    for name, header, priority in (("alice", alice, 10), ("bob", bob, 25)):
        service.generations.clear()
        assert ask(app, "POST", path, body, [header]).status == 200
        told = {(request.tenant, request.priority) for request in service.requests}
        assert told == {(keys.tenant(name), priority)}


def test_counting_tokens_is_too(keys: Keys) -> None:
    service = FakeService()
    header = keys.add("alice")
    app = make_door(service, keys=keys.ring)
    assert post(app, "/v1/messages/count_tokens", header, model="smollm2", **CHAT).status == 200
    ((_, request),) = service.calls
    assert request.tenant == keys.tenant("alice")


# --- models ------------------------------------------------------------------------------------------


def listed(app: FastAPI, header: tuple[bytes, bytes]) -> list[str]:
    return [model["id"] for model in ask(app, "GET", "/v1/models", b"", [header]).json["data"]]


@pytest.mark.parametrize("name", ["small", "small-1", "chat"])
def test_a_key_sees_and_uses_its_models_alone_by_each_of_their_names(keys: Keys, name: str) -> None:
    header, all_models = keys.add("alice", models=(name,)), keys.add("bob")
    service = two_models()
    app = make_door(service, keys=keys.ring)
    assert (listed(app, header), listed(app, all_models)) == (["small"], ["small", "large"])
    for asked in ("small", "small-1", "chat"):
        assert post(app, "/v1/chat/completions", header, model=asked, **CHAT).status == 200
    for asked in ("large", "large-1", "experts", "nothing"):
        answer = post(app, "/v1/chat/completions", header, model=asked, **CHAT)
        assert answer.status == 404
        assert answer.json["error"]["message"] == (
            f"there is no model {asked!r} for this API key, only small"
        ), "what it may not use is as if it were not there"
        assert answer.json["error"]["param"] == "model"
    assert ask(app, "GET", "/v1/models/small", b"", [header]).status == 200
    hidden = ask(app, "GET", "/v1/models/large", b"", [header])
    assert (hidden.status, b"large-1" in hidden.body) == (404, False)
    assert {request.group for request in service.requests} == {"small", "small-1", "chat"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "model": "large"}),
        ("/v1/responses", {"input": "a", "model": "large"}),
        ("/v1/embeddings", {"input": "a", "model": "large"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": "large"}),
        ("/v1/classify", {"input": "a", "model": "large"}),
        ("/v1/messages", CHAT | {"max_tokens": 8, "model": "large"}),
        ("/v1/messages/count_tokens", CHAT | {"model": "large"}),
        ("/tokenize", {"prompt": "a", "model": "large"}),
        ("/detokenize", {"tokens": [1], "model": "large"}),
        ("/generate", {"text": "a"}),
    ],
)
def test_no_route_serves_another_model(keys: Keys, path: str, body: dict[str, Any]) -> None:
    header, all_models = keys.add("alice", models=("small",)), keys.add("bob")
    service = two_models()
    service.fleet[1].settings = ReaderSettings(model="large")  # and the group that has no name
    app = make_door(service, keys=keys.ring)
    assert ask(app, "POST", path, body, [header]).status == 404
    assert (service.requests, service.encodings, service.calls) == ([], [], [])
    ask(app, "POST", path, body, [all_models])
    assert service.requests or service.encodings or service.calls, "another key's request comes there"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "a", "consumer_group": "experts"}),
        ("/embed", {"text": "a", "consumer_group": "experts"}),
        ("/tokenize/large-1", {"text": "a"}),
        ("/detokenize/large-1", {"tokens": [1]}),
        ("/chat_template/large-1", {"inputs": [[{"role": "user", "content": "a"}]]}),
    ],
)
def test_no_route_of_the_later_api_does_either(keys: Keys, path: str, body: dict[str, Any]) -> None:
    header, all_models = keys.add("alice", models=("small",)), keys.add("bob")
    service = two_models()
    app = make_door(service, "takeoff", keys=keys.ring)
    assert ask(app, "POST", path, body, [header]).status in (400, 404)
    assert (service.requests, service.encodings, service.calls) == ([], [], [])
    assert ask(app, "POST", path, body, [all_models]).status == 200
    status = ask(app, "GET", "/status", b"", [header])
    assert list(status.json["live_readers"]) == ["small-1"]


def test_a_group_is_a_keys_only_if_all_its_readers_are(keys: Keys) -> None:
    header = keys.add("alice", models=("small",))
    service = two_models()
    service.fleet[1].settings = ReaderSettings(model="large", consumer_group="chat")
    app = make_door(service, keys=keys.ring)
    assert post(app, "/v1/completions", header, model="chat", prompt="a").status == 404
    assert post(app, "/v1/completions", header, model="small", prompt="a").status == 200


# --- limits ------------------------------------------------------------------------------------------


def test_too_many_requests_are_refused_in_the_shape_of_the_api_with_the_time_to_wait(keys: Keys) -> None:
    header = keys.add("alice", requests_per_minute=2)
    app = make_door(keys=keys.ring)
    for _ in range(2):
        assert post(app, "/v1/completions", header, prompt="a").status == 200
    said = "the key 'alice' has used its 2 requests a minute; there is more in 30.0 s"
    openai = post(app, "/v1/completions", header, prompt="a")
    assert (openai.status, openai.headers["retry-after"]) == (429, "30")
    assert openai.json["error"] == {
        "message": said,
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    anthropic = post(app, "/v1/messages", header, **CHAT)
    assert anthropic.json["error"] == {"type": "rate_limit_error", "message": said}
    v1 = post(app, "/generate", header, text="a")
    assert (v1.status, v1.detail, v1.headers["retry-after"]) == (429, said, "30")
    assert ask(app, "GET", "/v1/models", b"", [header]).status == 200, "to look costs nothing"
    assert post(app, "/v1/completions", keys.add("bob"), prompt="a").status == 200, "others don't notice"


def test_one_account_for_all_doors(keys: Keys) -> None:
    header = keys.add("alice", requests_per_minute=2)
    doors = [make_door(door=door, keys=keys.ring) for door in ("front", "takeoff", "openai")]
    paths = [("/generate", {"text": "a"}), ("/generate", {"text": "a"}), ("/v1/completions", {"prompt": "a"})]
    statuses = [
        ask(door, "POST", path, body, [header]).status
        for door, (path, body) in zip(doors, paths, strict=True)
    ]
    assert statuses == [200, 200, 429]


def test_the_tokens_of_answers_whole_and_streamed_and_of_encodings_are_counted(keys: Keys) -> None:
    service = FakeService()
    header = keys.add("alice", tokens_per_minute=100)
    app = make_door(service, keys=keys.ring)
    post(app, "/v1/completions", header, prompt="x" * 27)  # and 3 of the answer
    post(app, "/v1/completions", header, prompt="x" * 27, stream=True)
    post(app, "/generate_stream", header, text="x" * 25)
    post(app, "/v1/embeddings", header, input=["a"])  # 7
    assert post(app, "/v1/completions", header, prompt="x" * 30).status == 200, "5 are left"
    refused = post(app, "/v1/completions", header, prompt="a")
    assert refused.status == 429
    assert refused.headers["retry-after"] == "18", "28 too many, and one to begin with"
    assert refused.json["error"]["type"] == "tokens"


def test_a_stream_is_open_until_it_ends_and_a_client_who_leaves_makes_room(keys: Keys) -> None:
    service = FakeService()
    header = keys.add("alice", max_open=1)
    app = make_door(service, keys=keys.ring)
    body = json.dumps({"prompt": "a", "stream": True}).encode()

    async def work() -> list[int]:
        service.gate = asyncio.Event()
        scope = make_scope("POST", "/v1/completions", [header])
        first = Connection([body], spec_version="2.3")
        running = asyncio.create_task(first.run(app, scope))
        await service.taken.wait()
        second = await Connection([body], spec_version="2.3").run(app, dict(scope))
        first.has_left.set()
        await running
        service.gate.set()
        third = await Connection([body], spec_version="2.3").run(app, dict(scope))
        return [second.status, third.status]

    assert asyncio.run(work()) == [429, 200]


def test_a_list_counts_each_of_its_texts_as_open(keys: Keys) -> None:
    header = keys.add("alice", max_open=2)
    app = make_door(keys=keys.ring)
    assert post(app, "/v1/completions", header, prompt=["a", "b"]).status == 200
    refused = post(app, "/v1/completions", header, prompt=["a", "b", "c"])
    assert refused.status == 400
    assert "more than 2 texts or choices" in refused.json["error"]["message"]
    assert post(app, "/v1/chat/completions", header, n=3, **CHAT).status == 400
    assert post(app, "/v1/completions", header, prompt=["a", "b"]).status == 200, "nothing stays open"
