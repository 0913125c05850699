"""A line and a trace of each request when all of it has ended: whose, how much, how long, and how it ended.

Nothing in it is the client's own words, but the id by which he calls the request: of a path the route's
template is told, of an error that may quote what was sent only its code. Prompts if the settings want them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

from starlette.types import Scope

from takeoff.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    PreparerFailed,
    RequestTimeout,
    TakeoffError,
    Unauthorized,
)
from takeoff.http.guard import OPEN_PATHS
from takeoff.http.notes import Note
from takeoff.http.request_trace import stage_of
from takeoff.keys.account import Account, Counted
from takeoff.observe.lines import Logs, Tell
from takeoff.observe.traces import TellTrace
from takeoff.request import FinishReason
from takeoff.settings import Settings

MAX_REASON_CHARACTERS = 300

# Their messages are made of settings, counts and the names of keys and models; of a stranger's request they
# say which host or origin it named.
_OUR_WORDS = (
    Unauthorized,
    Forbidden,
    RequestTimeout,
    PayloadTooLarge,
    Overloaded,
    NotReady,
    DeadlineExceeded,
)
_BROKEN = (EngineFailed, PreparerFailed)
_WORST_FIRST = (
    FinishReason.FAILED,
    FinishReason.DEADLINE,
    FinishReason.CANCELLED,
    FinishReason.LENGTH,
    FinishReason.STOP,
)


class RequestLog:
    """Tells of every request; of a probe only if it was refused."""

    def __init__(self, tell: Tell | None, *, with_addresses: bool, trace: TellTrace | None = None) -> None:
        """`tell` gets the lines, `trace` the traces; None: nobody wants them."""
        self._tell = tell
        self._with_addresses = with_addresses
        self._trace = trace

    @classmethod
    def of(cls, logs: Logs | None, settings: Settings) -> Self | None:
        """As the settings have it; None: nobody is to be told."""
        if logs is None or (logs.requests is None and logs.traces is None):
            return None
        return cls(logs.requests, with_addresses=settings.log_addresses, trace=logs.traces)

    def end(self, scope: Scope, note: Note, method: str, path: str, status: int) -> None:
        """Its connection has had its answer, or is gone; a stream that is kept may go on."""
        if note.error is None and scope["path"] in OPEN_PATHS:
            return
        headers = scope["headers"]
        client = scope["client"] if self._with_addresses else None
        at = {
            "client": client and client[0],
            "port": scope["server"] and scope["server"][1],
            "method": method,
            "path": path,
            "status": status,
        }

        def tell(_: object = None) -> None:
            facts = {
                "event": "request",
                "id": note.request_id,
                **who(note.account),
                **at,
                **_course(note, status),
            }
            facts = {name: value for name, value in facts.items() if value is not None}
            if self._tell is not None:
                self._tell(facts)
            if self._trace is not None:
                stage = stage_of(facts, note.arrived_at, time.monotonic(), _generations(note))
                self._trace(stage, {name.decode("latin-1"): each.decode("latin-1") for name, each in headers})

        if note.visit is None or note.visit.rest is None:
            tell()
        else:
            note.visit.rest.add_done_callback(tell)

    def refused(self, client: str, port: int, status: int, reason: str) -> None:
        """A connection was, before a request had come."""
        if self._tell is None:
            return
        facts = {"event": "connection", "client": client if self._with_addresses else None, "port": port}
        facts |= {"status": status, "state": "refused", "reason": reason}
        self._tell({name: value for name, value in facts.items() if value is not None})


def who(account: Account | None) -> dict[str, Any]:
    """Whose key it was, never what it is; nothing of who showed none."""
    if account is None or account.is_stranger or not account.name:
        return {}
    return {"key_id": account.key_id, "key": account.name} if account.key_id else {"key": account.name}


def _course(note: Note, status: int) -> dict[str, Any]:
    """How it went, and how it ended."""
    generations = _generations(note)
    return {
        "state": _state(note.error, generations, status),
        **_error(note),
        **_work(note, generations),
        "total_s": _seconds(time.monotonic() - note.arrived_at),
        "prompts": note.prompts or None,
    }


def _generations(note: Note) -> Sequence[Counted]:
    return [] if note.visit is None else note.visit.generations


def _state(error: TakeoffError | None, generations: Sequence[Counted], status: int) -> str:
    reasons = {each.finish_reason for each in generations}
    match error:
        case None:
            worst = next((reason.value for reason in _WORST_FIRST if reason in reasons), None)
            return worst or ("cancelled" if status == Cancelled.status else "done")
        case Cancelled():
            return FinishReason.CANCELLED.value
        case DeadlineExceeded():
            return FinishReason.DEADLINE.value
        case _ if isinstance(error, _BROKEN) or error.status == TakeoffError.status:
            return FinishReason.FAILED.value
        case _:
            return "refused"


def _error(note: Note) -> dict[str, Any]:
    error = note.error
    if error is None:
        return {}
    is_ours = isinstance(error, _OUR_WORDS) or note.prompts is not None
    return {"error": error.code, "reason": error.told[:MAX_REASON_CHARACTERS] if is_ours else None}


def _work(note: Note, generations: Sequence[Counted]) -> dict[str, Any]:
    """What a request used that asked for work."""
    visit = note.visit
    if visit is None or not visit.num_texts:
        return {}
    firsts = [each.first_token_at for each in generations if each.first_token_at is not None]
    return {
        "reader": ",".join(visit.reader_ids) or None,
        "replica": ",".join(visit.replica_ids) or None,
        "texts": visit.num_texts,
        "prompt_tokens": visit.other_tokens + sum(each.prompt_tokens for each in generations),
        "cached_tokens": sum(each.cached_tokens for each in generations),
        "completion_tokens": sum(each.completion_tokens for each in generations),
        "queue_s": _seconds(max(each.queue_s for each in generations)) if firsts else None,
        "ttft_s": _seconds(min(firsts) - note.arrived_at) if firsts else None,
    }


def _seconds(seconds: float) -> float:
    return round(seconds, 4)
