"""A server to measure: where it is, which API it speaks, and what it calls its model."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from takeoff.bench.apis import Api, OpenAI, Takeoff
from takeoff.errors import TargetError

PROBE_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 600.0
TAKEOFF_GROUP = "primary"  # the group that every server of the Takeoff API has


@dataclass(frozen=True, slots=True)
class Target:
    """One server that streams completions over plain HTTP.

    `pid` is the process whose memory, with all its children's, is the server's; None: nobody knows.
    """

    name: str  # as the report calls it
    host: str
    port: int
    model: str
    api_key: str | None = None
    api: Api = field(default_factory=OpenAI)
    pid: int | None = None
    timeout_s: float = ANSWER_TIMEOUT_S  # a request that takes longer is an error

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def find_target(
    url: str,
    *,
    name: str | None = None,
    api_key: str | None = None,
    pid: int | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Target:
    """Ask the server at `url` what it speaks: OpenAI's API if it names models, else Takeoff's.

    A path says it too: http://host:port/v1, http://host:port/generate_stream.

    Raises:
        TargetError: not such a URL, or nobody answers there as such a server does.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    path = parts.path.rstrip("/")
    if parts.scheme != "http" or host is None or path not in ("", "/v1", Takeoff.path):
        raise TargetError(
            f"{url!r} is not the address of a server",
            hint="write http://host:port, or with /v1 or /generate_stream after it to say which API",
        )
    base = f"http://{parts.netloc}"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    model = None if path == Takeoff.path else _first_model(base, headers, is_certain=path == "/v1")
    api: Api = OpenAI() if model is not None else Takeoff()
    if model is None:
        _check_takeoff(base, headers)
    return Target(
        name or parts.netloc,
        socket.gethostbyname(host),
        port,
        model or TAKEOFF_GROUP,
        api_key,
        api,
        pid,
        timeout_s,
    )


def _first_model(base: str, headers: dict[str, str], *, is_certain: bool) -> str | None:
    """What /v1/models names first; None where there is no such page and perhaps another API."""
    url = f"{base}/v1/models"
    try:
        return str(_ask(url, headers)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()
            if exc.code == 404 and not is_certain:
                return None
        raise TargetError(f"{url} names no model: {exc}", hint="is the server ready?") from exc


def _check_takeoff(base: str, headers: dict[str, str]) -> None:
    url = f"{base}/generate"
    try:
        answer = _ask(url, headers, {"text": "Hello", "max_new_tokens": 1})
        if not isinstance(answer["text"], str):
            raise TypeError(f"its text is {answer['text']!r}")
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise TargetError(
            f"{url} does not answer as the Takeoff API does, and there is no /v1/models: {exc!r}",
            hint="is it the port of one of these APIs?",
        ) from exc


def _ask(url: str, headers: dict[str, str], body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**headers, "content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310  (http only, checked)
        return json.load(answer)
