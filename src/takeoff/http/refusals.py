"""An error on the wire: in the shape of OpenAI's API, of Anthropic's at /v1/messages, else of FastAPI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from takeoff.errors import (
    DeadlineExceeded,
    InvalidBody,
    InvalidRequest,
    NotReady,
    Overloaded,
    RateLimited,
    TakeoffError,
    Unauthorized,
)
from takeoff.http.notes import note_error
from takeoff.http.terms import new_request_id
from takeoff.http.visiting import current_visit

# The kinds of Anthropic's API that a status has; of the others it is ours, or the client's.
ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}

# Routes beside /v1/ that clients of OpenAI-like servers ask.
_OPENAI_PATHS = frozenset({"/rerank", "/v2/rerank", "/tokenize", "/detokenize", "/tokenizer_info"})


def error_response(path: str, exc: TakeoffError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request of `path` that ends with `exc`."""
    note_error(exc)
    response = _shaped(path, exc)
    response.headers.update(headers or {})
    for name, value in _headers(exc):
        response.headers.append(name, value)
    return response


def _shaped(path: str, exc: TakeoffError) -> Response:
    if _is_anthropic(path):
        visit = current_visit.get(None)
        request_id = new_request_id() if visit is None else visit.request_id
        body = anthropic_error_body(exc, request_id)
        return JSONResponse(body, exc.status, headers={"request-id": request_id})
    return JSONResponse(error_body(exc) if _is_openai(path) else {"detail": exc.told}, exc.status)


def validation_response(path: str, errors: Sequence[dict[str, Any]]) -> Response:
    """The answer to a body of the wrong shape, from pydantic's errors."""
    note_error(InvalidBody("; ".join(f"{each['loc']}: {each['msg']}" for each in errors)))
    if _is_anthropic(path):
        loc, first = errors[0]["loc"], errors[0]["msg"]
        param = ".".join(map(str, loc[1:])) or None
        return _shaped(path, InvalidRequest(first, param=param))
    if _is_openai(path):
        return JSONResponse(_validation_error_body(errors), 400)
    return JSONResponse({"detail": errors}, 422)


def anthropic_error_body(exc: TakeoffError, request_id: str) -> dict[str, Any]:
    """An error in Anthropic's shape. It has no place for the field, so the message begins with it."""
    kind = ANTHROPIC_KINDS.get(exc.status, "api_error" if exc.status >= 500 else "invalid_request_error")
    is_named = exc.param is None or exc.param in exc.told
    message = exc.told if is_named else f"{exc.param}: {exc.told}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_body(exc: TakeoffError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": exc.told, "type": _openai_kind(exc), "param": exc.param, "code": exc.code}}


def _openai_kind(exc: TakeoffError) -> str:
    if isinstance(exc, RateLimited):
        return exc.of
    is_ours = exc.status >= 500 or isinstance(exc, Overloaded)
    return "server_error" if is_ours else "invalid_request_error"


def _validation_error_body(errors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of pydantic's errors in OpenAI's shape."""
    first = errors[0]
    names = [str(part) for part in itertools.islice(first["loc"], 1, None)]
    param = names[0] if names else None
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": first["type"]}
    }


def _headers(exc: TakeoffError) -> list[tuple[str, str]]:
    match exc:
        case Overloaded() | NotReady(retry_after_s=float()):
            return [("retry-after", str(math.ceil(exc.retry_after_s or 0.0)))]
        case DeadlineExceeded():  # clients of OpenAI and Anthropic would try again
            return [("x-should-retry", "false")]
        case Unauthorized():  # a line each: browsers read one scheme of a line
            return [("www-authenticate", f'{scheme} realm="takeoff"') for scheme in ("Bearer", "Basic")]
        case _:
            return []


def _is_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _is_openai(path: str) -> bool:
    return path.startswith("/v1/") or path in _OPENAI_PATHS
