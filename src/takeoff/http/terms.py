"""What a client says of its request beside the body: its id, its time, and whether its stream is kept."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from takeoff.errors import InvalidRequest

ID, TIMEOUT, RESUME = "X-Request-Id", "X-Request-Timeout", "X-Resume"
MAX_ID_CHARACTERS = 128
MAX_TIMEOUT_S = 86_400.0

_ID = re.compile(rf"[A-Za-z0-9._~:=+@-]{{1,{MAX_ID_CHARACTERS}}}")  # what is itself in a path
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Terms:
    """Of one request."""

    request_id: str  # the client's own, or a new one
    timeout_s: float | None  # from its arrival to its end; None: no limit
    resume_s: float | None  # for so long its stream is kept without a connection; None: it ends with it


def terms_of(headers: Mapping[bytes, bytes], max_resume_s: float) -> Terms:
    """The terms in a request's headers, whose names are in lower case.

    Raises:
        InvalidRequest: one is not what it should be; `param` is the header.
    """
    return Terms(
        _request_id(headers),
        _seconds(headers, TIMEOUT, MAX_TIMEOUT_S),
        _seconds(headers, RESUME, max_resume_s),
    )


def new_request_id() -> str:
    """What a request is called whose client has no name for it."""
    return f"req_{uuid.uuid4().hex}"


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = _value(headers, ID)
    if given is None:
        return new_request_id()
    if _ID.fullmatch(given) is None:
        raise InvalidRequest(
            f"{ID} must have 1 to {MAX_ID_CHARACTERS} letters, digits or characters of ._~:=+@-, got "
            f"{given[:MAX_ID_CHARACTERS]!r}",
            param=ID,
        )
    return given


def _seconds(headers: Mapping[bytes, bytes], name: str, most: float) -> float | None:
    """A number of seconds, above 0; None: there is none."""
    given = _value(headers, name)
    if given is None:
        return None
    if most == 0.0:
        raise InvalidRequest(f"{name} is turned off here", param=name)
    seconds = float(given) if _SECONDS.fullmatch(given) else 0.0
    if not 0.0 < seconds <= most:
        raise InvalidRequest(
            f"{name} must be a number of seconds above 0, at most {most:g}, got {given[:40]!r}", param=name
        )
    return seconds


def _value(headers: Mapping[bytes, bytes], name: str) -> str | None:
    value = headers.get(name.lower().encode())
    return None if value is None else value.decode("latin-1")
