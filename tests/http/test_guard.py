"""Who is let in: every route asks for the key, and none answers a stranger's page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute
from tests.http.door import MAKERS, Answer, FakeService, ask, make_door

from takeoff.http.guard import OPEN_PATHS

KEY = "s3cret"
BODY = {
    "text": "a",
    "prompt": "a",
    "input": "a",
    "tokens": [1],
    "inputs": [[{"role": "user", "content": "a"}]],
}
BODY["model_name"] = "smollm2"
# Routes that name an unknown field, or want a body of another form.
OF_OTHER_BODIES = re.compile(r"/v[12]/|/web/|/image_generate|/(rerank|tokenize|detokenize)$")
HEALTH = "/healthz"
every_door = pytest.mark.parametrize("door", MAKERS)


def every_route(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of all routes, those of included routers too; path parameters are "smollm2"."""

    def below(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
        for route in routes:
            router = getattr(route, "original_router", None)
            if router is not None:
                yield from below(router.routes)
                continue
            for method in route.methods:  # type: ignore[attr-defined]
                yield method, re.sub(r"\{.*?\}", "smollm2", route.path)  # type: ignore[attr-defined]

    return sorted(below(app.routes), key=lambda it: (it[0] == "DELETE", it))  # the reader is used till then


def basic(password: bytes, user: bytes = b"any") -> tuple[bytes, bytes]:
    return (b"authorization", b"Basic " + base64.b64encode(user + b":" + password))


def bearer(key: bytes) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + key)


def is_let_in(key: str, header: tuple[bytes, bytes] | None) -> bool:
    answer = ask(make_door(api_key=key), "GET", "/v1/models", headers=[header] if header else [])
    assert answer.status in (200, 401)
    assert ("data" in answer.json) is (answer.status == 200)
    return answer.status == 200


def test_the_walk_finds_the_routes() -> None:
    routes = every_route(make_door())
    for known in (("POST", "/generate"), ("POST", "/v1/completions"), ("GET", "/metrics")):
        assert known in routes
    for known in (
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/web/smollm2"),
        ("GET", "/demos/chat"),
    ):
        assert known in routes
    assert ("POST", "/tokenize/smollm2") in every_route(make_door(door="takeoff"))
    assert ("DELETE", "/reader/smollm2") in every_route(make_door(door="management"))
    assert ("POST", "/v1/embeddings") in every_route(make_door(door="openai"))


@every_door
def test_every_route_asks_for_the_key(door: str) -> None:
    service = FakeService()
    app = make_door(service, door, api_key=KEY)
    for method, path in every_route(app):
        if path in OPEN_PATHS:  # the exceptions, see below
            continue
        refused = ask(app, method, path, BODY)
        assert refused.status == 401, (method, path)
        assert "API key is required" in refused.body.decode() or method == "HEAD"
        challenges = refused.headers["www-authenticate"].splitlines()
        assert challenges == ['Bearer realm="takeoff"', 'Basic realm="takeoff"'], (
            "browsers read one of a line"
        )
    assert (service.requests, service.encodings, service.calls) == ([], [], []), "nothing reached the service"
    assert [reader.state for reader in service.fleet] == ["live"]


@every_door
def test_a_path_that_is_no_route_asks_for_the_key_too(door: str) -> None:
    app = make_door(door=door, api_key=KEY)
    for path in ("/nothing", "/v1/nothing", "/HEALTHZ", "/healthz/", "/healthz/x", "//healthz", "/web"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            assert ask(app, method, path, BODY).status == 401, (method, path)


@every_door
def test_whether_it_is_well_is_told_to_everyone_and_why_not_to_who_has_a_key(door: str) -> None:
    service = FakeService()
    service.is_ready, service.status = False, "failed: /models/secret.gguf is damaged"
    app = make_door(service, door, api_key=KEY)
    told = ask(app, "GET", HEALTH)
    assert (told.status, told.json) == (503, {"status": "failed"})
    with_key = ask(app, "GET", HEALTH, headers=[bearer(KEY.encode())])
    assert (with_key.status, with_key.json) == (503, {"status": service.status})
    for query in ("?wait=600", "?state=live", "?x"):
        assert ask(app, "GET", HEALTH + query).status == 401, "nobody without a key makes us wait"
    assert service.calls == []
    assert ask(app, "GET", f"{HEALTH}?state=live", headers=[bearer(KEY.encode())]).status == 503
    assert ask(app, "POST", HEALTH, {}).status == 405


@every_door
def test_probes_are_answered_to_everyone_and_tell_of_readers_to_who_has_a_key(door: str) -> None:
    app = make_door(door=door, api_key=KEY)
    for path in OPEN_PATHS:
        told = ask(app, "GET", path)
        assert (told.status, told.json["status"]) == (200, "live")
        assert not told.json.get("readers"), path
        assert ask(app, "GET", path + "?x").status == 401
    with_key = ask(app, "GET", "/readyz", headers=[bearer(KEY.encode())])
    assert [reader["state"] for reader in with_key.json["readers"]] == ["live"]


@every_door
def test_every_route_opens_to_each_way_of_showing_the_key(door: str) -> None:
    for header in ((b"x-api-key", KEY.encode()), bearer(KEY.encode()), basic(KEY.encode())):
        app = make_door(door=door, api_key=KEY)
        for method, path in every_route(app):
            answer = ask(app, method, path, BODY, [header])
            assert answer.status not in (401, 403, 500), (method, path, header)
            is_told_more = OF_OTHER_BODIES.match(path)
            assert answer.status in (200, 201, 204) or is_told_more, (method, path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        (b"x-api-key", b""),
        (b"x-api-key", b"s3cre"),
        (b"x-api-key", b"s3cret1"),
        (b"x-api-key", b"S3CRET"),
        (b"x-api-key", "s3crét".encode()),
        (b"x-api-key", b"\xff\x00"),
        bearer(b""),
        bearer(b"wrong"),
        (b"authorization", b""),
        (b"authorization", b"Bearer"),
        (b"authorization", KEY.encode()),
        (b"authorization", b"Digest " + KEY.encode()),
        basic(b""),
        basic(b"wrong"),
        basic(b"wrong", user=KEY.encode()),
        (b"authorization", b"Basic " + base64.b64encode(KEY.encode())),
        (b"authorization", b"Basic !!!"),
        (b"authorization", b"Basic \xe9"),
        (b"authorization", b"Basic"),
    ],
)
def test_a_wrong_key_is_refused(header: tuple[bytes, bytes] | None) -> None:
    assert not is_let_in(KEY, header)


@pytest.mark.parametrize("key", ["schlüssel", "東京", "a:b:c", "x" * 1024])
def test_a_key_may_be_any_text_in_the_bytes_that_clients_make_of_it(key: str) -> None:
    for header in ((b"x-api-key", key.encode()), basic(key.encode()), bearer(key.encode())):
        assert is_let_in(key, header)


def test_a_latin_1_client_is_understood_and_question_marks_are_no_key() -> None:
    assert is_let_in("schlüssel", (b"x-api-key", "schlüssel".encode("latin-1")))
    assert is_let_in("schlüssel", basic("schlüssel".encode("latin-1")))
    assert not is_let_in("東京", (b"x-api-key", b"??"))


def called(name: bytes, **settings: object) -> Answer:
    """The answer to a request whose Host header is `name`."""
    return ask(make_door(**settings), "GET", "/healthz", headers=[(b"host", name)])


@every_door
def test_a_strangers_host_name_is_refused_on_every_route(door: str) -> None:
    app = make_door(door=door)
    for method, path in every_route(app):
        answer = ask(app, method, path, BODY, [(b"host", b"evil.example")])
        assert answer.status == 403, (method, path)
        assert b"'evil.example'" in answer.body


@every_door
def test_a_strangers_page_is_refused_on_every_route_that_does_something(door: str) -> None:
    app = make_door(door=door)
    doing = [(method, path) for method, path in every_route(app) if method not in ("GET", "HEAD")]
    assert len(doing) >= 2
    for method, path in [*doing, ("DELETE", "/anything"), ("PUT", "/anything"), ("PATCH", "/anything")]:
        answer = ask(app, method, path, BODY, [(b"origin", b"https://evil.example")])
        assert answer.status == 403, (method, path)
        assert b"'https://evil.example'" in answer.body


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"10.0.0.1",
        b"[::2]:8000",
        b"[",
        b"[::1",
        b"a:b:c",
        b"localhost\xff",
    ],
)
def test_host_names_that_are_not_ours_are_refused(host: bytes) -> None:
    answer = called(host)
    assert answer.status == 403
    assert "allow it with --allowed-host" in answer.json["detail"]


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LocalHost:8000", b"127.0.0.1", b"127.0.0.1:8000", b"[::1]", b"[::1]:8000"],
)
def test_loopback_names_are_ours(host: bytes) -> None:
    assert called(host).status == 200


def test_other_names_are_served_when_they_are_allowed_or_bound() -> None:
    assert called(b"llm.example.com:8000", allowed_host=("LLM.example.com",)).status == 200
    assert called(b"evil.example", allowed_host=("llm.example.com",)).status == 403
    assert called(b"[fd00::7]:8000", host="fd00::7").status == 200
    assert called(b"192.168.0.4:8000", host="192.168.0.4").status == 200
    for any_address in ("0.0.0.0", "::"):
        assert called(b"192.168.0.4:8000", host=any_address).status == 200
        assert called(b"[fd00::7]", host=any_address).status == 200
        assert called(b"rebound.example", host=any_address).status == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"http://localhost:8000", 200),
        (b"http://LOCALHOST:8000", 200),
        (b"http://localhost:8001", 403),
        (b"http://localhost", 403),
        (b"null", 403),
        (b"", 403),
        (b"localhost:8000", 403),
        (b"http://localhost:8000.evil.example", 403),
        (b"http://evil.example/localhost:8000", 403),
        (b"http://[", 403),
        (b"http://[::1", 403),
        (b"http://\xff", 403),
    ],
)
def test_only_our_own_pages_may_post(origin: bytes, status: int) -> None:
    answer = ask(make_door(), "POST", "/generate", BODY, [(b"origin", origin)])
    assert answer.status == status
    assert ask(make_door(), "GET", "/healthz", headers=[(b"origin", origin)]).status == 200


@every_door
def test_no_answer_opens_itself_to_other_origins(door: str) -> None:
    app = make_door(door=door, api_key=KEY)
    routes = every_route(app)
    asked = [*routes, *(("OPTIONS", path) for _, path in routes)]
    preflight = [
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"x-api-key"),
    ]
    for origin in (b"http://localhost:8000", b"https://evil.example"):
        for key in ([], [(b"x-api-key", KEY.encode())]):
            for method, path in asked:
                answer = ask(app, method, path, BODY, [(b"origin", origin), *preflight, *key])
                assert not [name for name in answer.headers if name.startswith("access-control-")]
                assert answer.status != 200 or method != "OPTIONS"
