"""Every error that a door can raise, as Anthropic's clients see it at /v1/messages and below."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.door import Answer, FakeService, ask, every_error, make_door, post

from takeoff.errors import Overloaded, RateLimited, StartError, TakeoffError

PATHS = ["/v1/messages", "/v1/messages/count_tokens"]
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    410: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "invalid_request_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
}
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def body_for(path: str) -> dict[str, Any]:
    return HELLO if path.endswith("count_tokens") else HELLO | {"max_tokens": 5}


def error_of(answer: Answer) -> tuple[int, str, str]:
    """The status, the kind and the message of an error in Anthropic's shape."""
    body = answer.json
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["error"].keys() == {"type", "message"}
    assert body["request_id"] == answer.headers["request-id"]
    return answer.status, body["error"]["type"], body["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [each for each in every_error() if not issubclass(each, StartError)])
def test_an_error_reaches_a_client_in_anthropics_shape(kind: type[TakeoffError], path: str) -> None:
    service = FakeService()
    if kind is Overloaded:
        service.refusal = error = Overloaded("7 requests are open, the limit is 7", retry_after_s=2.1)
    elif kind is RateLimited:
        message = "the key has used its 7 requests a minute"
        service.refusal = error = RateLimited(message, retry_after_s=2.1, of="requests")
    else:
        service.refusal = error = kind("what happened, with 42", param="field", hint="what to do")
    answer = post(service, path, **body_for(path))
    hint = " (what to do)" if error.hint else ""
    field = "field: " if error.param else ""
    assert error_of(answer) == (kind.status, KINDS[kind.status], f"{field}{error.message}{hint}")
    assert answer.headers.get("retry-after") == ("3" if issubclass(kind, Overloaded) else None)


def test_a_field_that_the_message_names_is_named_once() -> None:
    service = FakeService()
    service.refusal = TakeoffError("messages[3] is wrong", param="messages[3]")
    assert error_of(post(service, PATHS[0], **body_for(PATHS[0])))[2] == "messages[3] is wrong"


@pytest.mark.parametrize("path", PATHS)
def test_guard_limits_and_router_speak_it_too(path: str) -> None:
    body = body_for(path)
    status, kind, message = error_of(ask(make_door(api_key="secret"), "POST", path, body))
    assert (status, kind) == (401, "authentication_error")
    assert "x-api-key" in message
    taken = ask(make_door(api_key="secret"), "POST", path, body, [(b"x-api-key", b"secret")])
    assert taken.status == 200
    stranger = ask(make_door(), "POST", path, body, [(b"host", b"evil.example")])
    assert error_of(stranger)[:2] == (403, "permission_error")
    large = ask(make_door(max_body_bytes=1_024), "POST", path, b" " * 1_025)
    assert error_of(large)[:2] == (413, "request_too_large")
    late = ask(make_door(body_timeout_s=0.01), "POST", path, [b"{"], ends=False)
    assert error_of(late)[:2] == (408, "timeout_error")
    assert error_of(ask(make_door(), "GET", path))[:2] == (405, "invalid_request_error")
    assert error_of(ask(make_door(), "POST", f"{path}/nothing", body))[:2] == (404, "not_found_error")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body is not valid JSON"),
        (b"[]", "Input should be a valid dictionary"),
        (b'{"max_tokens": 5}', "messages: Field required"),
        (b'{"max_tokens": NaN}', "NaN is not a JSON number"),
        (b'{"max_tokens": "many", "messages": []}', "max_tokens: Input should be a valid integer"),
    ],
)
def test_a_body_of_the_wrong_shape_is_told_by_its_field(body: bytes, says: str) -> None:
    status, kind, message = error_of(ask(make_door(), "POST", "/v1/messages", body))
    assert (status, kind) == (400, "invalid_request_error")
    assert says in message


def test_an_error_on_our_side_has_the_shape() -> None:
    service = FakeService()
    service.refusal = RuntimeError("a bug")
    answer = post(service, "/v1/messages", **body_for("/v1/messages"))
    assert error_of(answer) == (500, "api_error", "an error on our side; the server's log has it")


def test_the_paths_beside_it_keep_openais_shape() -> None:
    for path in ("/v1/messagesx", "/v1/nothing"):
        assert ask(make_door(), "POST", path, HELLO).json.keys() == {"error"}
