"""An error on the wire: OpenAI's shape below /v1/, FastAPI's everywhere else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from takeoff.errors import Overloaded, TakeoffError, Unauthorized


def error_response(path: str, exc: TakeoffError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request of `path` that ends with `exc`."""
    body = error_body(exc) if _is_openai(path) else {"detail": exc.told}
    response = JSONResponse(body, exc.status, headers=dict(headers or {}))
    for name, value in _headers(exc):
        response.headers.append(name, value)
    return response


def validation_response(path: str, errors: Sequence[dict[str, Any]]) -> Response:
    """The answer to a body of the wrong shape, from pydantic's errors."""
    if _is_openai(path):
        return JSONResponse(_validation_error_body(errors), 400)
    return JSONResponse({"detail": errors}, 422)


def error_body(exc: TakeoffError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    is_ours = exc.status >= 500 or isinstance(exc, Overloaded)
    kind = "server_error" if is_ours else "invalid_request_error"
    return {"error": {"message": exc.told, "type": kind, "param": exc.param, "code": exc.code}}


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
        case Overloaded():
            return [("retry-after", str(math.ceil(exc.retry_after_s)))]
        case Unauthorized():  # a line each: browsers read one scheme of a line
            return [("www-authenticate", f'{scheme} realm="takeoff"') for scheme in ("Bearer", "Basic")]
        case _:
            return []


def _is_openai(path: str) -> bool:
    return path.startswith("/v1/")
