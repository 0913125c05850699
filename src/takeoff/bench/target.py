"""A server to measure: where it is, and what it calls its model."""

from __future__ import annotations

import json
import socket
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from takeoff.errors import TargetError

PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server that speaks OpenAI's /v1/completions over plain HTTP."""

    name: str  # as the report calls it
    host: str
    port: int
    model: str
    api_key: str | None = None


def find_target(url: str, *, name: str | None = None, api_key: str | None = None) -> Target:
    """Ask the server at `url` (http://host:port) for its first model.

    Raises:
        TargetError: not such a URL, or nobody answers there as an OpenAI server does.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or host is None or parts.path.rstrip("/") not in ("", "/v1"):
        raise TargetError(f"{url!r} is not the address of a server", hint="write http://host:port")
    models_url = f"http://{parts.netloc}/v1/models"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(models_url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310  (http only, checked)
            model = json.load(answer)["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise TargetError(f"{models_url} names no model: {exc}", hint="is the server ready?") from exc
    return Target(name or parts.netloc, socket.gethostbyname(host), port, str(model), api_key)
