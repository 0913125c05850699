"""Every error of the tree that a door can raise, as clients see it: FastAPI's shape and OpenAI's."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from tests.http.door import (
    Answer,
    FakeService,
    ask,
    broken_script,
    every_error,
    make_door,
    post,
    post_takeoff,
)

from takeoff import errors
from takeoff.errors import (
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RateLimited,
    StartError,
    TakeoffError,
)

V1_PATHS = ["/generate", "/generate_stream"]


def make_error(kind: type[TakeoffError]) -> TakeoffError:
    if kind is Overloaded:
        return Overloaded("7 requests are open, the limit is 7", retry_after_s=2.1)
    if kind is RateLimited:
        return RateLimited("the key has used its 7 requests a minute", retry_after_s=2.1, of="requests")
    return kind("what happened, with 42", param="prompt", hint="what to do")


def test_a_503_says_when_to_come_back_where_that_is_known() -> None:
    service = FakeService()
    service.refusal = NotReady("the server is shutting down", retry_after_s=29.2)
    for path, body in (("/generate", {"text": "a"}), ("/v1/completions", {"model": "x", "prompt": "a"})):
        answer = post(service, path, **body)
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")


def the_tree() -> list[type[TakeoffError]]:
    """All errors but those of the command line."""
    return [kind for kind in every_error() if not issubclass(kind, StartError)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    lines = [line.strip("│├└─ ").split() for line in (inspect.getdoc(errors) or "").splitlines()]
    told = {words[0]: words[1] for words in lines if len(words) > 1 and words[1].isdigit()}
    assert told == {kind.__name__: str(kind.status) for kind in the_tree()}


@pytest.mark.parametrize("path", V1_PATHS)
@pytest.mark.parametrize("kind", the_tree())
def test_an_error_reaches_a_v1_client_in_fastapis_shape(kind: type[TakeoffError], path: str) -> None:
    service = FakeService()
    service.refusal = error = make_error(kind)
    answer = post(service, path, text="a")
    if issubclass(kind, InvalidRequest):
        message = "what happened, with 42 (what to do)"
        assert answer.status == 422
        assert answer.json == {
            "detail": [{"loc": ["body", "text"], "msg": message, "type": "value_error"}],
        }
    else:
        assert answer.status == kind.status
        hint = f" ({error.hint})" if error.hint else ""
        assert answer.json == {"detail": error.message + hint}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == ("3" if issubclass(kind, Overloaded) else None)


@pytest.mark.parametrize("path", V1_PATHS)
@pytest.mark.parametrize("kind", the_tree())
def test_an_error_reaches_a_client_of_the_later_api_with_the_field(
    kind: type[TakeoffError], path: str
) -> None:
    service = FakeService()
    service.refusal = error = make_error(kind)
    answer = post_takeoff(service, path, text="a")
    is_refused = issubclass(kind, InvalidRequest | NotFound)
    assert answer.status == (400 if kind is NotFound else kind.status)
    hint = f" ({error.hint})" if error.hint else ""
    assert answer.json == {"detail": ("text: " if is_refused else "") + error.message + hint}
    assert answer.headers.get("retry-after") == ("3" if issubclass(kind, Overloaded) else None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", the_tree())
def test_an_error_reaches_an_openai_client_in_its_shape(kind: type[TakeoffError], stream: bool) -> None:
    service = FakeService()
    service.refusal = error = make_error(kind)
    answer = post(service, "/v1/completions", prompt="a", stream=stream)
    assert answer.status == kind.status
    ours = kind.status >= 500 or kind is Overloaded
    hint = f" ({error.hint})" if error.hint else ""
    assert answer.json == {
        "error": {
            "message": error.message + hint,
            "type": "requests"
            if kind is RateLimited
            else "server_error"
            if ours
            else "invalid_request_error",
            "param": error.param,
            "code": kind.code,
        }
    }
    assert answer.headers.get("retry-after") == ("3" if issubclass(kind, Overloaded) else None)


def openai_error(answer: Answer) -> dict[str, Any]:
    assert set(answer.json) == {"error"}
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    return dict(answer.json["error"])


def test_below_v1_the_guard_speaks_openais_shape_too() -> None:
    keyless = ask(make_door(api_key="secret"), "POST", "/v1/completions", {"prompt": "a"})
    assert keyless.status == 401
    assert openai_error(keyless)["code"] == "unauthorized"
    assert openai_error(keyless)["type"] == "invalid_request_error"
    assert keyless.headers["www-authenticate"].startswith("Bearer ")
    stranger = ask(make_door(), "GET", "/v1/models", headers=[(b"host", b"evil.example")])
    assert stranger.status == 403
    assert openai_error(stranger)["code"] == "forbidden"
    assert ask(make_door(api_key="secret"), "GET", "/docs").json.keys() == {"detail"}


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("POST", "/", 405, "GET"),
        ("GET", "/generate", 405, "POST"),
        ("DELETE", "/generate_stream", 405, "POST"),
        ("POST", "/generate/", 404, None),
        ("POST", "/metrics", 405, "GET"),
        ("GET", "/web/../app.py", 404, None),
        ("GET", "/web/nothing.js", 404, None),
        ("BREW", "/generate", 405, "POST"),
    ],
)
def test_unknown_paths_and_methods_are_told(method: str, path: str, status: int, allow: str | None) -> None:
    answer = ask(make_door(), method, path)
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert set(answer.json) == {"detail"}
    assert path.rsplit("/", 1)[-1] in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow", "code"),
    [
        ("GET", "/v1/nothing", 404, None, "not_found"),
        ("POST", "/v1/chat/completions/", 404, None, "not_found"),
        ("GET", "/v1/completions", 405, "POST", "method_not_allowed"),
        ("POST", "/v1/models", 405, "GET", "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_are_told_to_openai_clients(
    method: str, path: str, status: int, allow: str | None, code: str
) -> None:
    answer = ask(make_door(), method, path)
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    error = openai_error(answer)
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert f"{method} {path}" in error["message"]


def test_type_errors_have_fastapis_shape_on_v1_and_openais_below_v1() -> None:
    answer = post(FakeService(), "/generate", text="a", generate_max_length="many", sampling_topp=2)
    assert answer.status == 422
    assert [error["loc"] for error in answer.json["detail"]] == [
        ["body", "generate_max_length"],
        ["body", "sampling_topp"],
    ]
    assert [error["type"] for error in answer.json["detail"]] == ["int_parsing", "less_than_equal"]
    assert all(set(error) == {"loc", "msg", "type"} for error in answer.json["detail"])
    answer = post(FakeService(), "/v1/completions", prompt="a", max_tokens="many")
    assert answer.status == 400
    error = openai_error(answer)
    assert (error["param"], error["code"], error["type"]) == (
        "max_tokens",
        "int_parsing",
        "invalid_request_error",
    )
    assert error["message"].startswith("max_tokens: Input should be a valid integer")


def test_a_failure_in_the_middle_of_an_unstreamed_answer_is_a_503() -> None:
    answer = post(FakeService(broken_script()), "/generate", text="a")
    assert answer.status == 503
    assert answer.json == {"detail": "the engine died while serving: it was killed by signal 9"}
    answer = post(FakeService(broken_script()), "/v1/completions", prompt="a")
    assert answer.status == 503
    assert openai_error(answer)["code"] == "engine_failed"


def test_a_bug_on_our_side_is_a_500_that_tells_nothing() -> None:
    service = FakeService()
    service.refusal = RuntimeError("the prompt was: my secret")
    for path, body in (("/generate", {"text": "a"}), ("/v1/completions", {"prompt": "a"})):
        answer = post(service, path, **body)
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "an error on our side" in str(answer.json)
        assert (set(answer.json) == {"error"}) is path.startswith("/v1/")
        assert isinstance(answer.error, RuntimeError), "the server logs it"
